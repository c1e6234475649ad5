package pod

import corev1 "k8s.io/api/core/v1"

// ContainerRequests is what the containers of a pod request together: the most
// that run at one time. Sidecars run beside all that come after them, other
// init containers one after the other.
func ContainerRequests(s *corev1.PodSpec) corev1.ResourceList {
	return together(s, func(c *corev1.Container) corev1.ResourceList { return c.Resources.Requests })
}

// ContainerLimits is what the containers of a pod may use together.
func ContainerLimits(s *corev1.PodSpec) corev1.ResourceList {
	return together(s, func(c *corev1.Container) corev1.ResourceList { return c.Resources.Limits })
}

func together(s *corev1.PodSpec, of func(*corev1.Container) corev1.ResourceList) corev1.ResourceList {
	main, sidecars, most := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	for i := range s.Containers {
		add(main, of(&s.Containers[i]))
	}
	for i := range s.InitContainers {
		c := &s.InitContainers[i]
		during := corev1.ResourceList{}
		add(during, sidecars)
		add(during, of(c))
		if IsSidecar(c) {
			add(sidecars, of(c))
		}
		atLeast(most, during)
	}
	add(main, sidecars)
	atLeast(main, most)
	return main
}

func add(to, list corev1.ResourceList) {
	for name, q := range list {
		sum := to[name].DeepCopy()
		sum.Add(q)
		to[name] = sum
	}
}

func atLeast(list, least corev1.ResourceList) {
	for name, q := range least {
		if have, ok := list[name]; !ok || q.Cmp(have) > 0 {
			list[name] = q.DeepCopy()
		}
	}
}
