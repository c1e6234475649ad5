// Package linux holds thin wrappers of system calls: EINTR retried, errors
// typed with the call's name and path, features probed by doing. It decides
// nothing and keeps no state.
package linux

// Mount is one mount to make: the arguments of mount(2). Target is a path on
// the host side, already resolved by whoever fills it in.
type Mount struct {
	Source string
	Target string
	Type   string  // filesystem type; "" for a bind mount
	Flags  uintptr // MS_* of mount(2)
	Data   string  // filesystem options, comma separated
}
