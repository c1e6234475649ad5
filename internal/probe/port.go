package probe

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Port is the number that an action's port stands for: itself, that of the
// container's port of this name, or a number written as a string.
func Port(port intstr.IntOrString, c *corev1.Container) (int, error) {
	number := port.IntValue() // of a string that is none: 0
	if port.Type == intstr.String {
		found := false
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				number, found = int(p.ContainerPort), true
				break
			}
		}
		if _, err := strconv.Atoi(port.StrVal); !found && err != nil {
			return 0, fmt.Errorf("port %q not found in container %q", port.StrVal, c.Name)
		}
	}
	if number < 1 || number > 65535 {
		return 0, fmt.Errorf("invalid port number: %d", number)
	}
	return number, nil
}
