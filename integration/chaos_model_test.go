package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// chaosModel is what must be, by the names of pods. All that is acknowledged is
// there: pods that were applied and their labels, and none that was deleted. Each
// pod runs, has as many restarts as there were events in its group, and an
// address of its own.
type chaosModel map[string]*chaosPod

type chaosPod struct {
	events int      // ends of its containers or its sandbox, those at once together
	labels []string // one of these was applied last; the node was killed under the others
	may    bool     // it is there or not: the node was killed under the command
	fresh  bool     // it was applied, and has not been looked at since
	killed bool     // something in it was, and it has not been looked at since
	uid    string   // "" until it was seen
}

// unsure tells that the next look decides what the model says.
func (p *chaosPod) unsure() bool { return p.may || len(p.labels) > 1 }

// check waits until what there is agrees with the model, and fails the test at
// once where it never can again.
func (c *chaos) check() {
	c.e.t.Helper()
	c.e.eventually("the model", func() string {
		var list corev1.PodList
		out := c.e.ok("get", "pods", "-o", "json")
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			c.e.t.Fatalf("%v: %s", err, out)
		}
		wrong, missing := c.model.compare(list.Items)
		if len(wrong) > 0 {
			c.e.t.Fatalf("against the model:\n\t%s\n%s", strings.Join(wrong, "\n\t"), c.e.ok("get", "pods", "-o", "wide"))
		}
		return strings.Join(missing, ", ")
	})
	for _, p := range c.model {
		p.fresh, p.killed = false, false
	}
}

// compare says what is wrong and will stay so, and what is missing yet. What it
// was unsure of it takes from pods.
func (m chaosModel) compare(pods []corev1.Pod) (wrong, missing []string) {
	found := map[string]*corev1.Pod{}
	at := map[string]string{} // pods by address
	for i := range pods {
		p := &pods[i]
		found[p.Name] = p
		if p.DeletionTimestamp != nil {
			continue
		}
		for _, ip := range p.Status.PodIPs {
			if other := at[ip.IP]; other != "" {
				wrong = append(wrong, fmt.Sprintf("%s and %s both have address %s", other, p.Name, ip.IP))
			}
			at[ip.IP] = p.Name
		}
		if m[p.Name] == nil {
			wrong = append(wrong, p.Name+" is there, and was deleted or never applied")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		want, p := m[name], found[name]
		switch {
		case p == nil && want.may:
			delete(m, name)
			continue
		case p == nil:
			wrong = append(wrong, name+" is gone, and its apply was acknowledged")
			continue
		case p.DeletionTimestamp != nil && want.may:
			missing = append(missing, name+" is being deleted")
			continue
		case p.DeletionTimestamp != nil:
			wrong = append(wrong, name+" is being deleted, and nobody asked for it")
			continue
		}
		want.may = false
		if want.uid == "" {
			want.uid = string(p.UID)
		}
		label := p.Labels["serial"]
		switch {
		case want.uid != string(p.UID):
			wrong = append(wrong, name+" is another pod than before")
		case !slices.Contains(want.labels, label):
			wrong = append(wrong, fmt.Sprintf("%s has label %q, want %q: an acknowledged apply is lost", name, label, want.labels))
		case restarts(p) > want.events:
			wrong = append(wrong, fmt.Sprintf("%s has %d restarts after %d events", name, restarts(p), want.events))
		case restarts(p) < want.events || !isReady(p):
			missing = append(missing, fmt.Sprintf("%s with %d restarts of %d, ready: %t", name, restarts(p), want.events, isReady(p)))
		}
		want.labels = []string{label}
	}
	return wrong, missing
}
