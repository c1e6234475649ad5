package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/internal/hint"
)

const (
	// AnnotationNetwork names the network that a pod is joined to; without it
	// that is the built-in one.
	AnnotationNetwork = "podrun.dev/network"
	// AnnotationIPs and AnnotationMAC ask plugins with the capabilities ips and
	// mac for addresses: 10.1.2.3/24, several with a comma between them, and
	// 02:00:00:00:00:01.
	AnnotationIPs = "podrun.dev/ips"
	AnnotationMAC = "podrun.dev/mac"
	// The kubelet's, for plugins with the capability bandwidth.
	annotationIngress = "kubernetes.io/ingress-bandwidth"
	annotationEgress  = "kubernetes.io/egress-bandwidth"
)

// minBandwidth and maxBandwidth are the kubelet's, in bits a second, and
// burstBandwidth, in bits, is that of the CRI runtimes.
const (
	minBandwidth   = 1_000
	maxBandwidth   = 1_000_000_000_000_000
	burstBandwidth = 1<<31 - 1
)

// cniPod is the pod as its network is told of it.
func (w *worker) cniPod(netns string) (cni.Pod, error) {
	asked, err := networkWishes(w.pod)
	return cni.Pod{
		ID: string(w.uid), Namespace: w.namespace, Name: w.name, NetNS: netns, RequestIP: parseAddr(w.run.IP), HostPorts: hostPorts(w.pod),
		Network: w.pod.Annotations[AnnotationNetwork], Capabilities: asked,
	}, err
}

// networkWishes are what a pod asks of the plugins of its network
// (https://www.cni.dev/docs/conventions/).
func networkWishes(p *corev1.Pod) (map[string]any, error) {
	asked := map[string]any{}
	if text, ok := p.Annotations[AnnotationIPs]; ok {
		var ips []string
		for ip := range strings.SplitSeq(text, ",") {
			ip = strings.TrimSpace(ip)
			if _, err := netip.ParsePrefix(ip); err != nil {
				return nil, annotationError(AnnotationIPs, ip, "write it as 10.1.2.3/24")
			}
			ips = append(ips, ip)
		}
		asked["ips"] = ips
	}
	if text, ok := p.Annotations[AnnotationMAC]; ok {
		if mac, err := net.ParseMAC(text); err != nil || len(mac) != 6 {
			return nil, annotationError(AnnotationMAC, text, "write it as 02:00:00:00:00:01")
		}
		asked["mac"] = text
	}
	bandwidth := map[string]any{}
	for name, direction := range map[string]string{annotationIngress: "ingress", annotationEgress: "egress"} {
		text, ok := p.Annotations[name]
		if !ok {
			continue
		}
		q, err := resource.ParseQuantity(text)
		if err != nil || q.Value() < minBandwidth || q.Value() > maxBandwidth {
			return nil, annotationError(name, text, "write it as 10M, in bits a second, from 1k to 1P")
		}
		bandwidth[direction+"Rate"], bandwidth[direction+"Burst"] = q.Value(), burstBandwidth
	}
	if len(bandwidth) > 0 {
		asked["bandwidth"] = bandwidth
	}
	return asked, nil
}

func annotationError(name, value, mend string) error {
	return hint.Wrap(fmt.Errorf("annotation %s: bad value %q", name, value), mend)
}

// CheckNetwork asks the plugins of a pod's network whether what they made for
// it is as it was.
func (s *Supervisor) CheckNetwork(ctx context.Context, namespace, name string) error {
	w, err := s.worker(namespace, name)
	if err != nil {
		return err
	}
	if w.hostNetwork {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %q is in the host's network, which no plugin makes", name))
	}
	boxes := w.boxes()
	if len(boxes) == 0 {
		return hint.Wrap(apierrors.NewBadRequest(fmt.Sprintf("pod %q has no network: none of its containers has begun, or all have ended", name)),
			fmt.Sprintf("\"podrun describe pod %s\" says what it waits for", name))
	}
	netns, err := boxes[0].box.OpenNetNS()
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %q is not running", name))
	}
	defer func() { _ = closeAll(netns) }()
	err = s.network.Check(ctx, cni.Pod{
		ID: string(w.uid), Namespace: namespace, Name: name, NetNS: fmt.Sprintf("/proc/self/fd/%d", netns.Fd()),
	})
	switch {
	case errors.Is(err, cni.ErrNoCheck):
		return hint.Wrap(err, "set the list's cniVersion to 0.4.0 or later; pods that are joined then can be checked")
	case err != nil:
		return hint.Wrap(err, "delete the pod and apply it again: it is joined anew")
	}
	return nil
}
