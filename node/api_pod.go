package node

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/object"
	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/supervisor"
)

// podWriter writes pods as api_object.go writes the other kinds.
type podWriter struct{ *supervisor.Supervisor }

func (w podWriter) Write(_ *pod.Kind, namespace, name string, change object.Change, dryRun bool) (pod.Value, object.Action, error) {
	p, action, err := w.Supervisor.Write(namespace, name, change, dryRun)
	if err != nil {
		return nil, "", err
	}
	return p, action, nil
}

func (w podWriter) Delete(_ *pod.Kind, namespace, name string, o metav1.DeleteOptions) (pod.Value, error) {
	p, err := w.Supervisor.Delete(namespace, name, o)
	if err != nil {
		return nil, err
	}
	return p, nil
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
