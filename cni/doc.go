// Package cni joins pods to networks: it gives each an address, takes it back,
// and lets pods reach what the host reaches.
//
// It speaks CNI through libcni. The built-in network's plugin types (bridge,
// host-local, loopback) run in this process, any other type is executed. The
// package knows network namespaces by path and pods by id; it does not know
// containers, and it executes no program but foreign CNI plugins.
//
//	pod A  eth0 --veth--+
//	                    podrun0 (bridge, gateway) -- uplink (TUN) -- node -- host
//	pod B  eth0 --veth--+
//	       [ the pod network: a network namespace of its own ]
//
// The pod network is pinned below the state directory and outlives this
// process; so do bridge, veths and addresses. The TUN device ends with the
// process and is made again by the next, and so are the pods' connections
// through it.
//
// Invariants: an address belongs to at most one pod; a failed Add leaves
// nothing; Del works from what is on disk alone, may be repeated, and does not
// need the pod's namespace.
package cni
