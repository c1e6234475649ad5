package supervisor

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of waiting and terminated containers, as kubectl shows them.
const (
	reasonCreating     = "ContainerCreating"
	reasonInitializing = "PodInitializing"
	reasonCrashLoop    = "CrashLoopBackOff"
	reasonErrPull      = "ErrImagePull"
	reasonPullBackOff  = "ImagePullBackOff"
	reasonNeverPull    = "ErrImageNeverPull"
	reasonInvalidName  = "InvalidImageName"
	reasonCreateConfig = "CreateContainerConfigError"
	reasonCreate       = "CreateContainerError"
	reasonRun          = "RunContainerError"
	reasonCompleted    = "Completed"
	reasonError        = "Error"
	reasonOOM          = "OOMKilled"
	reasonStart        = "StartError"
	reasonUnknown      = "ContainerStatusUnknown"
)

// statusOf returns the status of the container name in p, making it when it is
// not there. The pointer is valid until the next call for another container.
func statusOf(p *corev1.Pod, name string) *corev1.ContainerStatus {
	if s := lookStatus(p, name); s != nil {
		return s
	}
	list := &p.Status.ContainerStatuses
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == name {
			list = &p.Status.InitContainerStatuses
		}
	}
	*list = append(*list, corev1.ContainerStatus{Name: name})
	return &(*list)[len(*list)-1]
}

// lookStatus is statusOf that leaves p as it is: nil when there is none.
func lookStatus(p *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// initStatus gives a new pod the status of one that waits for everything.
func initStatus(p *corev1.Pod, hostIP string, now time.Time) {
	start := metav1.NewTime(now)
	p.Status = corev1.PodStatus{
		Phase:     corev1.PodPending,
		StartTime: &start,
		HostIP:    hostIP,
		HostIPs:   []corev1.HostIP{{IP: hostIP}},
		QOSClass:  qosClass(p),
	}
	for _, c := range allContainers(p) {
		s := statusOf(p, c.Name)
		s.Image = c.Image
		setWaiting(s, firstReason(p), "")
	}
}

// setWaiting makes s wait for reason. What ran before moves to lastState.
func setWaiting(s *corev1.ContainerStatus, reason, message string) {
	if s.State.Terminated != nil {
		s.LastTerminationState = corev1.ContainerState{Terminated: s.State.Terminated}
	}
	s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	s.Ready = false
	s.Started = new(bool)
}

// setRunning makes s the status of c, which runs. Only a container that is
// meant to keep running can count as started, and be ready.
func setRunning(s *corev1.ContainerStatus, c *container) {
	if s.State.Terminated != nil {
		s.LastTerminationState = corev1.ContainerState{Terminated: s.State.Terminated}
	}
	s.ContainerID = idScheme + c.id
	s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(c.started)}}
	s.Resources = c.spec.Resources.DeepCopy()
	s.AllocatedResources = s.Resources.Requests
	signal := corev1.Signal(signalName(c.stopSignal))
	s.StopSignal = &signal
	s.User = userOf(c)
	started := c.isUp() && c.role != Init
	s.Started, s.Ready = &started, started && c.ready.Load()
}

// userOf is who the container's first program was started as.
func userOf(c *container) *corev1.ContainerUser {
	if c.box == nil {
		return nil
	}
	uid, gid, groups := c.box.User()
	u := &corev1.LinuxContainerUser{UID: int64(uid), GID: int64(gid)}
	for _, g := range groups {
		u.SupplementalGroups = append(u.SupplementalGroups, int64(g))
	}
	return &corev1.ContainerUser{Linux: u}
}

func setTerminated(s *corev1.ContainerStatus, id string, e end) {
	var started metav1.Time
	if s.State.Running != nil {
		started = s.State.Running.StartedAt
	}
	s.ContainerID = idScheme + id
	s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode:    e.code,
		Signal:      e.signal,
		Reason:      e.reason,
		Message:     e.message,
		StartedAt:   started,
		FinishedAt:  metav1.NewTime(e.at),
		ContainerID: idScheme + id,
	}}
	s.Ready = false
	s.Started = new(bool)
}

// end is how a container ended.
type end struct {
	code    int32
	signal  int32
	reason  string
	message string
	at      time.Time
}

// idScheme is what status.containerStatuses[*].containerID begins with.
const idScheme = "podrun://"
