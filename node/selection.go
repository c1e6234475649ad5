package node

import (
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"get.podrun.dev/podrun/pod"
)

// selection is what a list or a watch asks for.
type selection struct {
	kind   *pod.Kind
	labels labels.Selector
	fields fields.Selector
}

func selectionOf(r *http.Request, kind *pod.Kind) (selection, error) {
	q := r.URL.Query()
	l, err := labels.Parse(q.Get("labelSelector"))
	if err != nil {
		return selection{}, apierrors.NewBadRequest("unable to parse label selector: " + err.Error())
	}
	f, err := fields.ParseSelector(q.Get("fieldSelector"))
	if err != nil {
		return selection{}, apierrors.NewBadRequest("unable to parse field selector: " + err.Error())
	}
	// A selector that names a field which the kind lacks would quietly match
	// nothing.
	known := fieldsOf(kind.New())
	for _, r := range f.Requirements() {
		if !known.Has(r.Field) {
			return selection{}, apierrors.NewBadRequest("field label not supported: " + r.Field)
		}
	}
	return selection{kind, l, f}, nil
}

// all tells whether nothing is left out: then objects need not be decoded.
func (s selection) all() bool { return s.labels.Empty() && s.fields.Empty() }

// matches tells whether a stored object is selected.
func (s selection) matches(value []byte) (bool, error) {
	if s.all() {
		return true, nil
	}
	v, err := s.kind.Decode(value)
	if err != nil {
		return false, err
	}
	return s.labels.Matches(labels.Set(v.GetLabels())) && s.fields.Matches(fieldsOf(v)), nil
}

// fieldsOf are the fields of an object that a selector may name, as the API
// server has them.
func fieldsOf(v pod.Value) fields.Set {
	set := fields.Set{"metadata.name": v.GetName()}
	if pod.KindOf(v).Namespaced {
		set["metadata.namespace"] = v.GetNamespace()
	}
	switch o := v.(type) {
	case *corev1.Namespace:
		set["status.phase"] = string(o.Status.Phase)
	case *corev1.Secret:
		set["type"] = string(o.Type)
	case *corev1.Pod:
		set["spec.nodeName"] = o.Spec.NodeName
		set["spec.restartPolicy"] = string(o.Spec.RestartPolicy)
		set["spec.schedulerName"] = o.Spec.SchedulerName
		set["spec.serviceAccountName"] = o.Spec.ServiceAccountName
		set["spec.hostNetwork"] = strconv.FormatBool(o.Spec.HostNetwork)
		set["status.phase"] = string(o.Status.Phase)
		set["status.podIP"] = o.Status.PodIP
		set["status.nominatedNodeName"] = o.Status.NominatedNodeName
	case *corev1.Event:
		set["involvedObject.kind"] = o.InvolvedObject.Kind
		set["involvedObject.name"] = o.InvolvedObject.Name
		set["involvedObject.namespace"] = o.InvolvedObject.Namespace
		set["involvedObject.uid"] = string(o.InvolvedObject.UID)
		set["reason"] = o.Reason
		set["type"] = o.Type
	}
	return set
}
