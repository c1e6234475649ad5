package supervisor

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/hint"
)

func TestNetworkWishes(t *testing.T) {
	for _, c := range []struct {
		annotations map[string]string
		want, err   string
	}{
		{nil, `{}`, ""},
		{map[string]string{AnnotationIPs: "10.1.2.3/24, fd00::3/64", AnnotationMAC: "02:00:00:00:00:01"}, `"ips":["10.1.2.3/24","fd00::3/64"],"mac":"02:00:00:00:00:01"`, ""},
		{map[string]string{annotationIngress: "10M", annotationEgress: "1k"}, `"bandwidth":{"egressBurst":2147483647,"egressRate":1000,"ingressBurst":2147483647,"ingressRate":10000000}`, ""},
		{map[string]string{AnnotationIPs: "10.1.2.3"}, "", `annotation podrun.dev/ips: bad value "10.1.2.3"`},
		{map[string]string{AnnotationMAC: "02:00"}, "", `annotation podrun.dev/mac: bad value "02:00"`},
		{map[string]string{annotationIngress: "fast"}, "", `annotation kubernetes.io/ingress-bandwidth: bad value "fast"`},
		{map[string]string{annotationEgress: "999"}, "", `annotation kubernetes.io/egress-bandwidth: bad value "999"`},
		{map[string]string{annotationEgress: "2P"}, "", `annotation kubernetes.io/egress-bandwidth: bad value "2P"`},
	} {
		p := new(corev1.Pod)
		p.Annotations = c.annotations
		got, err := networkWishes(p)
		text, _ := json.Marshal(got)
		switch {
		case c.err != "" && (err == nil || err.Error() != c.err || hint.Of(err) == ""):
			t.Errorf("%v: %v, want %s with a mend", c.annotations, err, c.err)
		case c.err == "" && (err != nil || !strings.Contains(string(text), c.want)):
			t.Errorf("%v: %s, %v; want %s", c.annotations, text, err, c.want)
		}
	}
}
