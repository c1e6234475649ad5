package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/object"
	"get.podrun.dev/podrun/store"
	"get.podrun.dev/podrun/supervisor"
)

// maxBody bounds what a request may send: the Kubernetes API server's limit
// is 3 MiB; a pod of ten times that is still answered, not choked on.
const maxBody = 32 << 20

// api serves the node's socket. What Kubernetes has, it has under Kubernetes'
// paths and in Kubernetes' types, so that a full API can take its place; the
// rest lies below /podrun/v1. client.go is the other end.
type api struct {
	store      *store.Store
	supervisor *supervisor.Supervisor
	objects    *object.Objects
	images     *image.Store
	paths      Paths
	limits     func() (ok bool, why string)
	network    *cni.Network
	checks     func(context.Context) []Check
	stopped    context.Context // ends when the node does: ends watches and follows
	log        *slog.Logger
	terminals  terminals
}

func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			if err := h(w, r); err != nil {
				a.fail(w, r, err)
			}
		})
	}
	a.handleObjects(handle)
	handle("GET /api/v1/namespaces/{namespace}/pods/{name}/log", a.podLog)
	handle("POST /podrun/v1/namespaces/{namespace}/pods/{name}/exec", a.exec)
	handle("POST /podrun/v1/namespaces/{namespace}/pods/{name}/attach", a.attach)
	handle("POST /podrun/v1/terminals/{id}/resize", a.resize)
	handle("POST /podrun/v1/namespaces/{namespace}/pods/{name}/portforward", a.portForward)
	handle("POST /podrun/v1/namespaces/{namespace}/pods/{name}/copy-in", a.copyIn)
	handle("POST /podrun/v1/namespaces/{namespace}/pods/{name}/copy-out", a.copyOut)
	handle("GET /podrun/v1/containers", a.listContainers)
	handle("GET /apis/metrics.k8s.io/v1beta1/pods", a.podMetrics)
	handle("GET /apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods", a.podMetrics)
	handle("GET /apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}", a.podMetrics)
	handle("POST /podrun/v1/containers/{id}/stop", a.stopContainer)
	a.handleImages(handle)
	handle("POST /podrun/v1/login", a.login)
	handle("GET /podrun/v1/networks", a.listNetworks)
	handle("POST /podrun/v1/namespaces/{namespace}/pods/{name}/check-network", a.checkNetwork)
	handle("GET /podrun/v1/version", a.version)
	handle("GET /podrun/v1/info", a.info)
	handle("GET /podrun/v1/doctor", a.doctor)
	handle("GET /podrun/v1/goroutines", a.goroutines)
	handle("/", func(_ http.ResponseWriter, r *http.Request) error {
		return apierrors.NewGenericServerResponse(http.StatusNotFound, r.Method, metav1Resource("path"), r.URL.Path,
			"this node has no such path; is it of another version of podrun?", 0, false)
	})
	return mux
}

// fail answers with err as a Kubernetes Status. A mend in err travels as a
// cause of type causeMend.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	if status.Code >= http.StatusInternalServerError {
		a.log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	respond(w, int(status.Code), status)
}

// statusOf is err as a Kubernetes Status with kind, code and mend filled in.
func statusOf(err error) metav1.Status {
	var known apierrors.APIStatus
	var tooOld *store.CompactedError
	var status metav1.Status
	switch {
	case errors.As(err, &known):
		status = known.Status()
	case errors.As(err, &tooOld):
		status = apierrors.NewResourceExpired("too old resource version: " + tooOld.Error()).ErrStatus
	default:
		status = apierrors.NewInternalError(err).ErrStatus
		status.Message = err.Error()
		status.Details = nil
	}
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	if status.Code == 0 {
		status.Code = http.StatusInternalServerError
	}
	if mend := hint.Of(err); mend != "" {
		if status.Details == nil {
			status.Details = &metav1.StatusDetails{}
		}
		status.Details.Causes = append(status.Details.Causes, metav1.StatusCause{Type: causeMend, Message: mend})
	}
	return status
}

func respond(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client went away: nobody to tell
}

// decode reads the JSON body of r into v; an empty body leaves v as it is.
func decode(r *http.Request, v any) error {
	err := json.NewDecoder(r.Body).Decode(v)
	if err != nil && !errors.Is(err, io.EOF) {
		return apierrors.NewBadRequest("request body: " + err.Error())
	}
	return nil
}

// streamer returns a writer that sends each write at once, and answers 200
// with the first.
type streamer struct {
	w http.ResponseWriter
	c *http.ResponseController
}

func stream(w http.ResponseWriter, contentType string) streamer {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	s := streamer{w, http.NewResponseController(w)}
	_ = s.c.Flush()
	return s
}

func (s streamer) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err == nil {
		err = s.c.Flush()
	}
	return n, err
}

// during is a context that ends with the request or with the node.
func (a *api) during(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(a.stopped, cancel)
	return ctx, func() { stop(); cancel() }
}
