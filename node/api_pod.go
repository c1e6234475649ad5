package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"get.podrun.dev/podrun/store"
	"get.podrun.dev/podrun/supervisor"
)

func metav1Resource(name string) schema.GroupResource { return schema.GroupResource{Resource: name} }

// selection is what a list or a watch asks for.
type selection struct {
	labels labels.Selector
	fields fields.Selector
}

func selectionOf(r *http.Request) (selection, error) {
	q := r.URL.Query()
	l, err := labels.Parse(q.Get("labelSelector"))
	if err != nil {
		return selection{}, apierrors.NewBadRequest("unable to parse label selector: " + err.Error())
	}
	f, err := fields.ParseSelector(q.Get("fieldSelector"))
	if err != nil {
		return selection{}, apierrors.NewBadRequest("unable to parse field selector: " + err.Error())
	}
	return selection{l, f}, nil
}

// all tells whether nothing is left out: then objects need not be decoded.
func (s selection) all() bool { return s.labels.Empty() && s.fields.Empty() }

// podFields are the fields of a pod that a selector may name, as the API
// server has them.
func podFields(p *corev1.Pod) fields.Set {
	return fields.Set{
		"metadata.name":            p.Name,
		"metadata.namespace":       p.Namespace,
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(p.Spec.HostNetwork),
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             p.Status.PodIP,
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}

// checkFields refuses a selector that names a field known lacks: it would
// quietly match nothing.
func checkFields(s fields.Selector, known fields.Set) error {
	for _, r := range s.Requirements() {
		if !known.Has(r.Field) {
			return apierrors.NewBadRequest("field label not supported: " + r.Field)
		}
	}
	return nil
}

func (s selection) matchesPod(value []byte) (bool, error) {
	if s.all() {
		return true, nil
	}
	p := new(corev1.Pod)
	if err := json.Unmarshal(value, p); err != nil {
		return false, err
	}
	return s.labels.Matches(labels.Set(p.Labels)) && s.fields.Matches(podFields(p)), nil
}

func (a *api) listPods(w http.ResponseWriter, r *http.Request) error {
	sel, err := selectionOf(r)
	if err == nil {
		err = checkFields(sel.fields, podFields(&corev1.Pod{}))
	}
	if err != nil {
		return err
	}
	if q := r.URL.Query().Get("watch"); q == "1" || q == "true" {
		return a.watchPods(w, r, sel)
	}
	objects, revision, err := a.store.List("Pod", r.PathValue("namespace"))
	if err != nil {
		return err
	}
	// Stored pods are JSON already: they are passed on as they are.
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"%d"},"items":[`, revision)
	n := 0
	for _, o := range objects {
		ok, err := sel.matchesPod(o.Value)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if n++; n > 1 {
			b.WriteByte(',')
		}
		b.Write(o.Value)
	}
	b.WriteString("]}\n")
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b.Bytes())
	return nil
}

// watchPods streams the changes of pods since resourceVersion, one JSON object
// a line, until the client or the node goes.
func (a *api) watchPods(w http.ResponseWriter, r *http.Request, sel selection) error {
	var from uint64
	if v := r.URL.Query().Get("resourceVersion"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %q", v))
		}
		from = n
	}
	ctx, cancel := a.during(r)
	defer cancel()
	watcher, err := a.store.Watch(ctx, "Pod", r.PathValue("namespace"), from)
	if err != nil {
		return err
	}
	out := json.NewEncoder(stream(w, "application/json"))
	type frame struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	shown := map[store.Key]bool{} // objects the client has seen match
	for e := range watcher.Events() {
		matches, err := sel.matchesPod(e.Object.Value)
		if err != nil {
			return nil
		}
		kind := string(e.Type)
		switch {
		case !matches && !shown[e.Object.Key]:
			continue
		case !matches:
			kind = string(store.Deleted) // it left the selection
		}
		shown[e.Object.Key] = matches && e.Type != store.Deleted
		if out.Encode(frame{kind, e.Object.Value}) != nil {
			return nil
		}
	}
	if err := watcher.Err(); err != nil && ctx.Err() == nil {
		if status, err := json.Marshal(statusOf(err)); err == nil {
			_ = out.Encode(frame{"ERROR", status})
		}
	}
	return nil
}

func (a *api) getPod(w http.ResponseWriter, r *http.Request) error {
	o, err := a.store.Get(store.Key{Kind: "Pod", Namespace: r.PathValue("namespace"), Name: r.PathValue("name")})
	if err != nil {
		return apierrors.NewNotFound(corev1.Resource("pods"), r.PathValue("name"))
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(o.Value)
	return nil
}

func (a *api) applyPod(w http.ResponseWriter, r *http.Request) error {
	p := new(corev1.Pod)
	if err := decode(r, p); err != nil {
		return err
	}
	if p.Namespace != r.PathValue("namespace") || p.Name != r.PathValue("name") {
		return apierrors.NewBadRequest("the pod's name or namespace is not the one of the request's path")
	}
	result, action, err := a.supervisor.Apply(p)
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, ApplyResult{Action: string(action), Pod: result})
	return nil
}

func (a *api) deletePod(w http.ResponseWriter, r *http.Request) error {
	var options metav1.DeleteOptions
	if err := decode(r, &options); err != nil {
		return err
	}
	p, err := a.supervisor.Delete(r.PathValue("namespace"), r.PathValue("name"), options.GracePeriodSeconds)
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, p)
	return nil
}

func (a *api) podLog(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	o := supervisor.LogOptions{
		Container: q.Get("container"), Previous: isTrue(q.Get("previous")),
		Follow: isTrue(q.Get("follow")), Timestamps: isTrue(q.Get("timestamps")), Tail: -1,
	}
	for name, set := range map[string]func(int64){
		"tailLines":    func(n int64) { o.Tail = n },
		"limitBytes":   func(n int64) { o.LimitBytes = n },
		"sinceSeconds": func(n int64) { o.Since = time.Now().Add(-time.Duration(n) * time.Second) },
	} {
		v := q.Get(name)
		if v == "" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return apierrors.NewBadRequest(fmt.Sprintf("%s: %q is not a number of 0 or more", name, v))
		}
		set(n)
	}
	if v := q.Get("sinceTime"); v != "" {
		t, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("sinceTime: %q is not a time in RFC 3339 form", v))
		}
		o.Since = t
	}
	ctx, cancel := a.during(r)
	defer cancel()
	begun := false
	err := a.supervisor.Logs(ctx, r.PathValue("namespace"), r.PathValue("name"), o, func() io.Writer {
		begun = true
		return stream(w, "text/plain; charset=utf-8")
	})
	if begun {
		return nil // the answer has begun: an error can only end it
	}
	return err
}

func isTrue(s string) bool { return s == "1" || s == "true" }

func (a *api) listEvents(w http.ResponseWriter, r *http.Request) error {
	sel, err := selectionOf(r)
	if err == nil {
		err = checkFields(sel.fields, eventFields(&corev1.Event{}))
	}
	if err != nil {
		return err
	}
	objects, revision, err := a.store.List("Event", r.PathValue("namespace"))
	if err != nil {
		return err
	}
	list := corev1.EventList{
		TypeMeta: metav1.TypeMeta{Kind: "EventList", APIVersion: "v1"},
		ListMeta: metav1.ListMeta{ResourceVersion: strconv.FormatUint(revision, 10)},
		Items:    []corev1.Event{},
	}
	for _, o := range objects {
		var e corev1.Event
		if err := json.Unmarshal(o.Value, &e); err != nil {
			return err
		}
		if sel.fields.Matches(eventFields(&e)) {
			list.Items = append(list.Items, e)
		}
	}
	respond(w, http.StatusOK, list)
	return nil
}

func eventFields(e *corev1.Event) fields.Set {
	return fields.Set{
		"metadata.name":            e.Name,
		"metadata.namespace":       e.Namespace,
		"involvedObject.kind":      e.InvolvedObject.Kind,
		"involvedObject.name":      e.InvolvedObject.Name,
		"involvedObject.namespace": e.InvolvedObject.Namespace,
		"involvedObject.uid":       string(e.InvolvedObject.UID),
		"reason":                   e.Reason,
		"type":                     e.Type,
	}
}
