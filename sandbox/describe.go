package sandbox

import (
	"slices"
	"strings"

	"github.com/moby/sys/capability"
)

// Args returns the program of the container and its arguments.
func (c *Container) Args() []string { return slices.Clone(c.state.Config.Args) }

// AllCapabilities returns every capability that this kernel knows, as
// "CAP_CHOWN"; none when the kernel cannot be asked.
func AllCapabilities() []string {
	known, err := capability.ListSupported()
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(known))
	for _, c := range known {
		names = append(names, "CAP_"+strings.ToUpper(c.String()))
	}
	return names
}
