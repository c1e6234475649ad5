package probe_test

import (
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"get.podrun.dev/podrun/internal/probe"
)

// The bytes of these answers are those of grpc-go's health server; the
// integration tests ask a real one.
func TestGRPC(t *testing.T) {
	for _, c := range []struct {
		name, body      string // in hexadecimal
		status, message string
		code            int
		want            probe.Outcome
	}{
		{name: "serving", body: "00000000020801", status: "0", want: probe.Outcome{Result: probe.Success, Output: "service healthy"}},
		{name: "not serving", body: "00000000020802", status: "0", want: probe.Outcome{Result: probe.Failure, Output: `service unhealthy (responded with "NOT_SERVING")`}},
		{name: "unknown, an empty message", body: "0000000000", status: "0", want: probe.Outcome{Result: probe.Failure, Output: `service unhealthy (responded with "UNKNOWN")`}},
		{name: "a status that is none", body: "000000000b08ffffffffffffffffff01", status: "0", want: probe.Outcome{Result: probe.Failure, Output: `service unhealthy (responded with "18446744073709551615")`}},
		{name: "a field from the future", body: "00000000081202414208011d00", status: "0", want: probe.Outcome{Result: probe.Failure, Output: "error: health rpc probe failed: malformed answer of the health service"}},
		{name: "a field of the future", body: "000000000612024142" + "0801", status: "0", want: probe.Outcome{Result: probe.Success, Output: "service healthy"}},
		{name: "no such service", status: "5", message: "unknown service", want: probe.Outcome{Result: probe.Failure, Output: "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"}},
		{name: "no health service", status: "12", message: "unknown service grpc.health.v1.Health%21", want: probe.Outcome{Result: probe.Failure,
			Output: "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service grpc.health.v1.Health!"}},
		{name: "its deadline passed", status: "4", want: probe.Outcome{Result: probe.Failure, Output: "timeout: health rpc did not complete within 10s"}},
		{name: "not gRPC", body: "3c3e", want: probe.Outcome{Result: probe.Failure, Output: "error: health rpc probe failed: the server does not speak gRPC: it sent no grpc-status"}},
		{name: "a proxy's answer", code: 502, want: probe.Outcome{Result: probe.Failure, Output: "error: health rpc probe failed: unexpected HTTP status code received from server: 502 (Bad Gateway)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			body, err := hex.DecodeString(c.body)
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/grpc.health.v1.Health/Check" || r.ProtoMajor != 2 || r.Header.Get("Content-Type") != "application/grpc" {
					t.Errorf("got %s %s %v", r.Proto, r.URL.Path, r.Header)
				}
				if c.code != 0 {
					w.WriteHeader(c.code)
					return
				}
				w.Header().Set("Content-Type", "application/grpc")
				_, _ = w.Write(body)
				if c.status != "" {
					w.Header().Set(http.TrailerPrefix+"Grpc-Status", c.status)
					w.Header().Set(http.TrailerPrefix+"Grpc-Message", c.message)
				}
			}))
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetUnencryptedHTTP2(true)
			server.Start()
			defer server.Close()
			if got := probe.GRPC(t.Context(), dial, server.Listener.Addr().String(), "service", 10*time.Second); got != c.want {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
		})
	}
}
