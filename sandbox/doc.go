// Package sandbox runs the processes of pods: a pause process that holds a
// pod's namespaces, and containers that join them, through libcontainer.
//
//	node                          calls this package
//	  +-- podrun-pause            net, ipc, uts; pause.c
//	  |     +-- podrun-pause      first of a pid namespace that containers share
//	  +-- container init          own pid, mount and cgroup namespace,
//	  |     +-- ...               the pause's net, ipc and uts by /proc/PID/ns
//	  +-- exec'ed process         all namespaces of its container
//
// It runs as root, in the user's user namespace or for real, and asks the
// kernel for: namespaces, mounts, cgroups where they are delegated, seccomp,
// capabilities. It does not know pods, images or networks: the caller passes a
// root filesystem to mount, files to bind, and connects the network namespace.
//
// # What outlives the node
//
// All that is needed to go on is on disk under Options.StateDir before the
// effect it describes, and no process hangs on the node by a pipe:
//
//	SANDBOX/sandbox.json          settings, then the pause's pid and start time
//	SANDBOX/shm                   /dev/shm of all the sandbox's containers
//	SANDBOX/containers/ID/container.json   what to start, then the pid, then the exit
//	                     /rootfs           where its root filesystem is mounted
//	                     /stdout, stderr   FIFOs; the container holds them read-write
//	                     /stdin            FIFO, if the container has an input
//	SANDBOX/run/ID                libcontainer's own state, with its exec FIFO
//
// A FIFO held open for reading and writing by the container neither ends nor
// breaks with the node, and a read end left with Options.Keep keeps what is in
// it when the container ends as well. The master of a container's terminal is
// kept there too.
//
// Exits are not lost: Wait looks at a child that has exited and leaves it a
// zombie, until the caller has saved the exit and calls Reap. If the node is
// killed in between, the zombie falls to the reaper, which logs its status,
// and the next node gets it through Options.ExitStatus.
package sandbox
