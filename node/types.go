package node

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/supervisor"
)

// What travels over the socket beside Kubernetes' own types. api.go and
// client.go are the two ends; an older client and a newer node may meet, so a
// field is added, never given another meaning.

// The values of other packages that the API answers with. The command line
// knows them by these names only.
type (
	// Container is one line of "podrun ps".
	Container = supervisor.Container
	// Network is one network that pods may be joined to.
	Network = cni.Info
)

// causeMend marks the cause of a Status that is a mend: what a person can do
// about the error.
const causeMend = metav1.CauseType("podrun.dev/mend")

// applyAnswer answers an apply.
type applyAnswer struct {
	Action string    `json:"action"` // created, configured or unchanged
	Object pod.Value `json:"object"`
}

// ExecRequest asks for a program to be run in a container. Its stdin, stdout
// and stderr travel beside the request as descriptors, in this order.
type ExecRequest struct {
	ID        string   `json:"id"`        // chosen by the client, names the program in a resize
	Container string   `json:"container"` // "" when the pod has only one
	Command   []string `json:"command"`
	TTY       bool     `json:"tty"`
	Rows      uint16   `json:"rows,omitempty"`
	Cols      uint16   `json:"cols,omitempty"`
}

// ExecResult answers an exec when the program has ended.
type ExecResult struct {
	ExitCode int    `json:"exitCode"`
	Error    string `json:"error,omitempty"` // why the program could not be started; ExitCode is 126 or 127 then
}

// Size is the size of a terminal in characters.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// VersionInfo tells one end's version.
type VersionInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	PID     int    `json:"pid,omitempty"` // of the node
}

// stopped answers a stop.
type stopped struct {
	ID string `json:"id"`
}
