package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/object"
	"get.podrun.dev/podrun/sandbox"
	"get.podrun.dev/podrun/store"
	"get.podrun.dev/podrun/supervisor"
	"get.podrun.dev/podrun/volume"
)

// elsewhere are paths that lead to other machines or to the pod network.
var elsewhere = []string{"/podrun/v1/images/pull", "/podrun/v1/images/push", "/podrun/v1/login", "/podrun/v1/networks", "/podrun/v1/info"}

// Whatever comes by the socket, it is answered, and is no internal error.
func FuzzRequest(f *testing.F) {
	const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`
	const configMap = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m","labels":{"a":"b"}},"data":{"k":"v"}}`
	for _, s := range [][2]string{
		{"GET /podrun/v1/version", ""}, {"GET /nowhere", ""}, {"GET /podrun/v1/containers?all=1", ""}, {"POST /podrun/v1/containers/x/stop?grace=-1", ""},
		{"GET /podrun/v1/images", ""}, {"GET /podrun/v1/images/a%2Fb", ""}, {"DELETE /podrun/v1/images/x?force=1", ""}, {"POST /podrun/v1/images/x/tag", `{"target":"a:b"}`},
		{"POST /podrun/v1/images/prune", `{"all":true,"labels":["a=b"]}`}, {"POST /podrun/v1/images/save", `{"names":["x"]}`}, {"POST /podrun/v1/images/import", `{"changes":["CMD x"]}`},
		{"GET /podrun/v1/disk-usage", ""}, {"GET /apis/metrics.k8s.io/v1beta1/pods", ""},
		{"POST /api/v1/namespaces/default/pods", pod}, {"PUT /podrun/v1/namespaces/default/pods/p/apply?dryRun=All", pod},
		{"PUT /api/v1/namespaces/default/pods/p", pod}, {"PATCH /api/v1/namespaces/default/pods/p", `{"metadata":{"labels":{"x":null,"y":"z"}}}`},
		{"DELETE /api/v1/namespaces/default/pods/p", `{"gracePeriodSeconds":-1,"preconditions":{"uid":"u"}}`},
		{"GET /api/v1/namespaces/default/pods/p/log?tailLines=1&sinceTime=x&limitBytes=0", ""}, {"POST /podrun/v1/namespaces/default/pods/p/exec", `{"command":["x"],"tty":true}`},
		{"POST /podrun/v1/namespaces/default/pods/p/attach", `{}`}, {"POST /podrun/v1/terminals/t/resize", `{"rows":70000}`}, {"POST /podrun/v1/namespaces/default/pods/p/portforward?port=0", ""},
		{"POST /podrun/v1/namespaces/default/pods/p/copy-in", `{"path":"/","base":".."}`}, {"POST /podrun/v1/namespaces/default/pods/p/check-network", ""},
		{"POST /api/v1/namespaces/default/configmaps", configMap}, {"PUT /podrun/v1/namespaces/default/configmaps/m/apply", configMap}, {"PATCH /api/v1/namespaces/default/configmaps/m", `{"data":{"k":null}}`},
		{"GET /api/v1/configmaps?labelSelector=a%20in%20(b,c)&fieldSelector=metadata.name!=x", ""}, {"GET /api/v1/namespaces/default/events?watch=1&resourceVersion=1", ""},
		{"POST /api/v1/namespaces", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}`}, {"DELETE /api/v1/namespaces/n", ""}, {"DELETE /api/v1/namespaces/default/configmaps/m", `[]`},
		{"POST /api/v1/namespaces/default/persistentvolumeclaims", `{"metadata":{"name":"v"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`},
		{"POST /api/v1/namespaces/default/secrets", `{"metadata":{"name":"s"},"stringData":{"a":"b"},"data":{"c":"ZA=="}}`},
	} {
		contentType := "application/json"
		if strings.HasPrefix(s[0], "PATCH") {
			contentType = mergePatch
		}
		f.Add(fmt.Appendf(nil, "%s HTTP/1.1\r\nHost: podrun\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", s[0], contentType, len(s[1]), s[1]))
	}
	handler := idleAPI(f)
	ended, end := context.WithCancel(context.Background())
	end() // nobody waits for what may come
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			return
		}
		for _, path := range elsewhere {
			if strings.HasPrefix(r.URL.Path, path) {
				return
			}
		}
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r.WithContext(ended))
		if answer.Code >= http.StatusInternalServerError {
			t.Errorf("%s %s: %d %s", r.Method, r.URL, answer.Code, answer.Body)
		}
		if status := new(metav1.Status); answer.Code >= http.StatusBadRequest && answer.Header().Get("Content-Type") == "application/json" {
			if err := json.Unmarshal(answer.Body.Bytes(), status); err != nil || status.Message == "" || int(status.Code) != answer.Code {
				t.Errorf("%s %s: %d with %s", r.Method, r.URL, answer.Code, answer.Body)
			}
		}
	})
}

// idleAPI is an api on a store of its own that starts no pod.
func idleAPI(f *testing.F) http.Handler {
	dir := f.TempDir()
	log := slog.New(slog.DiscardHandler)
	st, err := store.Open(filepath.Join(dir, "store.db"), store.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = st.Close() })
	images, err := image.Open(filepath.Join(dir, "images"), image.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = images.Close() })
	volumes := volume.New(filepath.Join(dir, "data"), filepath.Join(dir, "state"))
	pods := supervisor.New(supervisor.Config{
		Store: st, Sandboxes: new(sandbox.Runtime), Images: images, Volumes: volumes,
		StateDir: filepath.Join(dir, "state"), DataDir: filepath.Join(dir, "data"), Node: "node",
	})
	pods.Close() // it takes pods, and does nothing for them
	f.Cleanup(pods.Close)
	objects, err := object.Open(object.Config{Store: st, RemoveClaim: volumes.RemoveClaim, DeletePod: func(namespace, name string) error {
		_, err := pods.Delete(namespace, name, metav1.DeleteOptions{})
		return err
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(objects.Close)
	return (&api{
		store: st, supervisor: pods, objects: objects, images: images, paths: newPaths(dir, dir), stopped: context.Background(), log: log,
		checks: func(context.Context) []Check { return nil },
	}).handler()
}
