package integration

import (
	"strings"
	"testing"
)

// TestExplain: it needs no node, and starts none.
func TestExplain(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	mustContain(t, e.ok("explain", "pod.spec.containers"), "KIND:       Pod\nVERSION:    v1\n\nFIELD: containers <[]Container>\n\n\nDESCRIPTION:\n",
		"\nFIELDS:\n  args\t<[]string>\n", "\n  name\t<string> -required-\n", "A single application container that you want to run within a pod.")
	mustContain(t, e.ok("explain", "po.spec.nodeSelector"), "FIELD: nodeSelector <map[string]string>\n", "\nPODRUN:\n    no effect: ")
	mustContain(t, e.ok("explain", "pvc", "--recursive"), "  spec\t<PersistentVolumeClaimSpec>\n    accessModes\t<[]string>\n")
	for _, kind := range []string{"configmaps", "secret", "ns", "ev", "pods"} {
		mustContain(t, e.ok("explain", kind), "\nFIELDS:\n  ")
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "error: You must specify the type of resource to explain. "},
		{[]string{"pod", "spec"}, "error: We accept only this format: explain RESOURCE\n"},
		{[]string{"deployment"}, "error: the server doesn't have a resource type \"deployment\"\n"},
		{[]string{"pod.spec.nosuch"}, "error: field \"nosuch\" does not exist\n"},
		{[]string{"pod.spec.nodeName.x"}, "error: field \"x\" does not exist\n"},
		{[]string{"pod", "--api-version=v2"}, "error: couldn't find resource for \"v2, Resource=pods\"\n"},
		{[]string{"pod", "-o", "json"}, "error: unrecognized format: json\n"},
	} {
		if got := e.fails(1, append([]string{"explain"}, tt.args...)...); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%v: got %q, want %q", tt.args, got, tt.want)
		}
	}
}
