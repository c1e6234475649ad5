package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"get.podrun.dev/podrun/object"
	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/store"
)

func metav1Resource(name string) schema.GroupResource { return schema.GroupResource{Resource: name} }

// handleFunc registers what answers a pattern of method and path.
type handleFunc func(pattern string, h func(http.ResponseWriter, *http.Request) error)

// writer writes the objects of a kind: the supervisor pods, package object the
// other kinds.
type writer interface {
	Write(kind *pod.Kind, namespace, name string, change object.Change, dryRun bool) (pod.Value, object.Action, error)
	Delete(kind *pod.Kind, namespace, name string, o metav1.DeleteOptions) (pod.Value, error)
}

// objectWriter is package object as a writer.
type objectWriter struct{ *object.Objects }

func (w objectWriter) Delete(kind *pod.Kind, namespace, name string, o metav1.DeleteOptions) (pod.Value, error) {
	d := object.Deletion{DryRun: len(o.DryRun) > 0}
	if o.Preconditions != nil && o.Preconditions.UID != nil {
		d.UID = string(*o.Preconditions.UID)
	}
	return w.Objects.Delete(kind, namespace, name, d)
}

// resource serves the objects of one kind.
type resource struct {
	*api
	kind   *pod.Kind
	writer writer // nil for a kind that is only read
}

// handleObjects registers the paths of every kind.
func (a *api) handleObjects(handle handleFunc) {
	for _, kind := range pod.Kinds {
		w := writer(objectWriter{a.objects})
		if kind.Name == "Pod" {
			w = podWriter{a.supervisor}
		}
		resource{a, kind, w}.handle(handle)
	}
	resource{a, pod.EventKind, nil}.handle(handle)
}

func (o resource) handle(handle handleFunc) {
	namespaced := ""
	if o.kind.Namespaced {
		namespaced = "namespaces/{namespace}/"
		handle("GET /api/v1/"+o.kind.Resource, o.list)
	}
	all := namespaced + o.kind.Resource
	handle("GET /api/v1/"+all, o.list)
	handle("GET /api/v1/"+all+"/{name}", o.get)
	if o.writer == nil {
		return
	}
	handle("POST /api/v1/"+all, o.create)
	handle("PUT /api/v1/"+all+"/{name}", o.replace)
	handle("PATCH /api/v1/"+all+"/{name}", o.patch)
	handle("DELETE /api/v1/"+all+"/{name}", o.delete)
	handle("PUT /podrun/v1/"+all+"/{name}/apply", o.apply)
}

func (o resource) list(w http.ResponseWriter, r *http.Request) error {
	sel, err := selectionOf(r, o.kind)
	if err != nil {
		return err
	}
	if isTrue(r.URL.Query().Get("watch")) {
		return o.watch(w, r, sel)
	}
	objects, revision, err := o.store.List(o.kind.Name, r.PathValue("namespace"))
	if err != nil {
		return err
	}
	// Stored objects are JSON already: they are passed on as they are.
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"kind":"%sList","apiVersion":"v1","metadata":{"resourceVersion":"%d"},"items":[`, o.kind.Name, revision)
	n := 0
	for _, stored := range objects {
		ok, err := sel.matches(stored.Value)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if n++; n > 1 {
			b.WriteByte(',')
		}
		b.Write(stored.Value)
	}
	b.WriteString("]}\n")
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b.Bytes())
	return nil
}

// watch streams the changes of objects since resourceVersion, one JSON object
// a line, until the client or the node goes.
func (o resource) watch(w http.ResponseWriter, r *http.Request, sel selection) error {
	var from uint64
	if v := r.URL.Query().Get("resourceVersion"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %q", v))
		}
		from = n
	}
	ctx, cancel := o.during(r)
	defer cancel()
	watcher, err := o.store.Watch(ctx, o.kind.Name, r.PathValue("namespace"), from)
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
		matches, err := sel.matches(e.Object.Value)
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
		if matches && e.Type != store.Deleted {
			shown[e.Object.Key] = true
		} else {
			delete(shown, e.Object.Key)
		}
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

func (o resource) get(w http.ResponseWriter, r *http.Request) error {
	stored, err := o.store.Get(store.Key{Kind: o.kind.Name, Namespace: r.PathValue("namespace"), Name: r.PathValue("name")})
	if errors.Is(err, store.ErrNotFound) {
		return apierrors.NewNotFound(corev1.Resource(o.kind.Resource), r.PathValue("name"))
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(stored.Value)
	return nil
}

// body reads the object of a request. What the path says, it need not.
func (o resource) body(r *http.Request) (pod.Value, error) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, apierrors.NewBadRequest("request body: " + err.Error())
	}
	v, err := o.kind.Decode(data)
	if err != nil {
		return nil, apierrors.NewBadRequest("request body: " + err.Error())
	}
	if name := r.PathValue("name"); name != "" && v.GetName() != name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", v.GetName(), name))
	}
	if v.GetName() == "" {
		return nil, apierrors.NewBadRequest("the object has no name")
	}
	namespace := r.PathValue("namespace")
	if v.GetNamespace() != "" && v.GetNamespace() != namespace {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the namespace of the provided object does not match the namespace sent on the request (%s and %s)", v.GetNamespace(), namespace))
	}
	v.SetNamespace(namespace)
	return v, nil
}

// write makes a change of the object that name names and answers with it.
func (o resource) write(w http.ResponseWriter, r *http.Request, name string, change object.Change) error {
	v, action, err := o.writer.Write(o.kind, r.PathValue("namespace"), name, change, isDryRun(r))
	if err != nil {
		return err
	}
	code := http.StatusOK
	if action == object.Created {
		code = http.StatusCreated
	}
	respond(w, code, v)
	return nil
}

func (o resource) create(w http.ResponseWriter, r *http.Request) error {
	v, err := o.body(r)
	if err != nil {
		return err
	}
	return o.write(w, r, v.GetName(), object.Create(v))
}

func (o resource) replace(w http.ResponseWriter, r *http.Request) error {
	v, err := o.body(r)
	if err != nil {
		return err
	}
	return o.write(w, r, v.GetName(), object.Replace(v))
}

// mergePatch is the only kind of patch that the node takes.
const mergePatch = "application/merge-patch+json"

func (o resource) patch(w http.ResponseWriter, r *http.Request) error {
	if t := r.Header.Get("Content-Type"); t != mergePatch {
		return apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "patch", metav1Resource(o.kind.Resource), r.PathValue("name"),
			fmt.Sprintf("the body of the request was in an unknown format - accepted media types include: %s", mergePatch), 0, false)
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return apierrors.NewBadRequest("request body: " + err.Error())
	}
	return o.write(w, r, r.PathValue("name"), object.Patch(o.kind, r.PathValue("name"), data))
}

func (o resource) apply(w http.ResponseWriter, r *http.Request) error {
	v, err := o.body(r)
	if err != nil {
		return err
	}
	result, action, err := o.writer.Write(o.kind, r.PathValue("namespace"), v.GetName(), object.Apply(v), isDryRun(r))
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, applyAnswer{Action: string(action), Object: result})
	return nil
}

func (o resource) delete(w http.ResponseWriter, r *http.Request) error {
	var options metav1.DeleteOptions
	if err := decode(r, &options); err != nil {
		return err
	}
	v, err := o.writer.Delete(o.kind, r.PathValue("namespace"), r.PathValue("name"), options)
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, v)
	return nil
}

func isDryRun(r *http.Request) bool {
	return slices.Contains(r.URL.Query()["dryRun"], metav1.DryRunAll)
}
