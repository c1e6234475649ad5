package sandbox

import (
	"slices"
	"strings"

	"github.com/moby/sys/capability"
)

// Args returns the program of the container and its arguments.
func (c *Container) Args() []string { return slices.Clone(c.state.Config.Args) }

// User returns who the container's first program was started as: its user, its
// group and all its groups, the first of them among these.
func (c *Container) User() (uid, gid int, groups []int) {
	u := &c.state.User
	groups = append([]int{u.GID}, u.Groups...)
	slices.Sort(groups)
	return u.UID, u.GID, slices.Compact(groups)
}

// AllCapabilities returns every capability that this process has to give, as
// "CAP_CHOWN": in a user namespace all that the kernel knows.
func AllCapabilities() []string {
	known, err := capability.ListSupported()
	if err != nil {
		return nil
	}
	own, err := capability.NewPid2(0)
	if err != nil || own.Load() != nil {
		return nil
	}
	names := make([]string, 0, len(known))
	for _, c := range known {
		if own.Get(capability.EFFECTIVE, c) {
			names = append(names, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	return names
}
