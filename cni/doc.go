// Package cni joins pods to networks: it gives each an address, takes it back,
// and lets pods reach what the host reaches.
//
// It speaks CNI through libcni. The built-in network's plugin types (bridge,
// host-local, loopback) run in this process, any other type is executed. The
// package knows network namespaces by path and pods by id; it does not know
// containers, and it executes no program but foreign CNI plugins.
//
//	pod A  eth0 --veth--+
//	                    podrun0 (bridge) --- tap0 --- gateway (user-mode stack
//	pod B  eth0 --veth--+                             in this process) --- host
//	       [ the pod network: a network namespace of its own ]
//
// The pod network is pinned below the state directory and outlives this
// process; so do bridge, veths and addresses. The TAP device and the gateway
// behind it end with the process and are made again by the next.
//
// Invariants: an address belongs to at most one pod; a failed Add leaves
// nothing; Del works from what is on disk alone, may be repeated, and does not
// need the pod's namespace.
package cni
