package supervisor

import "fmt"

// State is where a pod is in its life, seen from this machine. It is finer
// than the Kubernetes phase, which status.go derives from it, and is saved
// with the pod.
type State string

// The states of a pod. docs/states.md draws the moves between them.
const (
	Starting   State = "Starting"   // images, sandbox, network, init containers, containers
	Running    State = "Running"    // every container was started; some may have completed
	Restarting State = "Restarting" // a restart is counted; the old containers are being removed
	BackOff    State = "BackOff"    // nothing runs until the back-off is over
	Finishing  State = "Finishing"  // the pod's end is decided; what still runs is being stopped
	Finished   State = "Finished"   // Succeeded or Failed; only the object and the logs are left
	Deleting   State = "Deleting"   // a person asked for the end; everything is being removed
	Gone       State = "Gone"       // nothing is left, not even the object
)

// moves is the table of allowed moves. It is the only place that knows them.
var moves = map[State][]State{
	Starting:   {Running, Restarting, BackOff, Finishing, Deleting},
	Running:    {Restarting, Finishing, Deleting},
	Restarting: {BackOff, Starting, Deleting},
	BackOff:    {Starting, Restarting, Finishing, Deleting},
	Finishing:  {Finished, Deleting},
	Finished:   {Deleting},
	Deleting:   {Gone},
	Gone:       nil,
}

// move returns to when the table allows going there from s, and an error that
// names both otherwise.
func (s State) move(to State) (State, error) {
	for _, allowed := range moves[s] {
		if allowed == to {
			return to, nil
		}
	}
	return s, fmt.Errorf("internal error: a pod cannot go from %s to %s", s, to)
}
