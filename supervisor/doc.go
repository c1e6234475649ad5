// Package supervisor owns the life of every pod on this machine, from the
// first start to the last clean-up.
//
// It joins what the packages below make on their own: images, sandboxes,
// networks, volumes. It decides when a pod's containers are made, killed and
// made again; it does not know how any of that is done, and nothing of the
// socket or the command line.
//
// A pod is one unit and has one goroutine, its worker. The worker alone
// changes what the pod has on this machine; its loop in pod.go is the pod's
// life:
//
//	Starting --> Running --> Restarting --> BackOff --> Starting
//	    |           |                                      ^
//	    +--retry----|--------------------------------------+
//	                +--> Finishing --> Finished
//	any of them --> Deleting --> Gone
//
// The files follow that life: start.go and init.go bring a pod up, verdict.go
// judges the end of a container, group.go makes all of them again and alone.go
// one, stop.go and finish.go end them, recover.go goes on after a crash.
// status.go and condition.go say what people see of it.
//
// Invariants:
//
//   - The store is the truth. A restart is decided in one commit, with the new
//     incarnation of each container it makes, before a container is killed for
//     it; it is counted in a second one before a container is made for it. That
//     holds for the restart of a group and for that of one container.
//     After kill -9 of the node at any point, the next worker finds either the
//     old incarnations (nothing was decided: it judges their exits) or the new
//     ones (it clears the old, counts if that was not done, and makes the
//     new).
//   - The id of a container follows from the pod's UID, the container's name
//     and its incarnation. What is on disk under another id is left over and
//     is removed.
//   - An exit is reaped only after it is in the store, so that an exit which
//     the node did not live to save is logged by the reaper.
package supervisor
