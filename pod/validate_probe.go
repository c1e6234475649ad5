package pod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

type namedProbe struct {
	name  string
	probe *corev1.Probe
}

// probesOf lists a container's probes; those it does not have are nil.
func probesOf(c *corev1.Container) []namedProbe {
	return []namedProbe{{"livenessProbe", c.LivenessProbe}, {"readinessProbe", c.ReadinessProbe}, {"startupProbe", c.StartupProbe}}
}

func (v *validator) probes(c *corev1.Container, at *field.Path) {
	for _, named := range probesOf(c) {
		p, at := named.probe, at.Child(named.name)
		if p == nil {
			continue
		}
		v.handler(handler{exec: p.Exec, httpGet: p.HTTPGet, tcpSocket: p.TCPSocket, grpc: p.GRPC}, at)
		v.nonNegative(at.Child("initialDelaySeconds"), int64(p.InitialDelaySeconds))
		v.nonNegative(at.Child("timeoutSeconds"), int64(p.TimeoutSeconds))
		v.nonNegative(at.Child("periodSeconds"), int64(p.PeriodSeconds))
		v.nonNegative(at.Child("successThreshold"), int64(p.SuccessThreshold))
		v.nonNegative(at.Child("failureThreshold"), int64(p.FailureThreshold))
		if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
			v.invalid(at.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0")
		}
		if named.name == "readinessProbe" {
			if g := p.TerminationGracePeriodSeconds; g != nil {
				v.invalid(at.Child("terminationGracePeriodSeconds"), *g, "must not be set for readinessProbes")
			}
		} else if p.SuccessThreshold != 1 {
			v.invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1")
		}
	}
}

func (v *validator) lifecycle(l *corev1.Lifecycle, at *field.Path) {
	if l == nil {
		return
	}
	for name, h := range map[string]*corev1.LifecycleHandler{"postStart": l.PostStart, "preStop": l.PreStop} {
		if h != nil {
			v.handler(handler{exec: h.Exec, httpGet: h.HTTPGet, tcpSocket: h.TCPSocket, sleep: h.Sleep}, at.Child(name))
		}
	}
	if l.StopSignal != nil {
		if os := v.spec.OS; os == nil {
			v.forbidden(at.Child("stopSignal"), "may not be set for containers with empty `spec.os.name`")
		} else if os.Name == corev1.Linux {
			oneOf(v, at.Child("stopSignal"), *l.StopSignal, stopSignals()...)
		}
	}
}

// stopSignals are the names that Kubernetes knows, sorted.
func stopSignals() []corev1.Signal {
	names := []corev1.Signal{
		"SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO", "SIGIOT",
		"SIGKILL", "SIGPIPE", "SIGPOLL", "SIGPROF", "SIGPWR", "SIGQUIT", "SIGRTMAX",
	}
	names = append(names, numbered("SIGRTMAX-", 14)...)
	names = append(names, "SIGRTMIN")
	names = append(names, numbered("SIGRTMIN+", 15)...)
	return append(names, "SIGSEGV", "SIGSTKFLT", "SIGSTOP", "SIGSYS", "SIGTERM", "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG",
		"SIGUSR1", "SIGUSR2", "SIGVTALRM", "SIGWINCH", "SIGXCPU", "SIGXFSZ")
}

// numbered is prefix with the numbers to n, in the order of strings: 1, 10, 11,
// ... 2, 3.
func numbered(prefix corev1.Signal, n int) []corev1.Signal {
	out := []corev1.Signal{prefix + "1"}
	for i := 10; i <= n; i++ {
		out = append(out, corev1.Signal(fmt.Sprintf("%s%d", prefix, i)))
	}
	for i := 2; i < 10; i++ {
		out = append(out, corev1.Signal(fmt.Sprintf("%s%d", prefix, i)))
	}
	return out
}

// handler is what probes and hooks do.
type handler struct {
	exec      *corev1.ExecAction
	httpGet   *corev1.HTTPGetAction
	tcpSocket *corev1.TCPSocketAction
	grpc      *corev1.GRPCAction
	sleep     *corev1.SleepAction
}

func (v *validator) handler(h handler, at *field.Path) {
	some := false
	// first tells whether the handler of a type is the only one so far.
	first := func(name string, set bool) bool {
		if !set {
			return false
		}
		if some {
			v.forbidden(at.Child(name), "may not specify more than 1 handler type")
			return false
		}
		some = true
		return true
	}
	if first("exec", h.exec != nil) && len(h.exec.Command) == 0 {
		v.required(at.Child("exec", "command"), "")
	}
	if first("httpGet", h.httpGet != nil) {
		v.httpGet(h.httpGet, at.Child("httpGet"))
	}
	if first("tcpSocket", h.tcpSocket != nil) {
		v.port(h.tcpSocket.Port, at.Child("tcpSocket", "port"))
	}
	if first("grpc", h.grpc != nil) {
		v.port(intstr.FromInt32(h.grpc.Port), at.Child("grpc", "port"))
	}
	if first("sleep", h.sleep != nil) {
		if g := v.spec.TerminationGracePeriodSeconds; g != nil && (h.sleep.Seconds < 0 || h.sleep.Seconds > *g) {
			v.invalid(at.Child("sleep"), h.sleep.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *g))
		}
	}
	if !some {
		v.required(at, "must specify a handler type")
	}
}

func (v *validator) httpGet(h *corev1.HTTPGetAction, at *field.Path) {
	if h.Path == "" {
		v.required(at.Child("path"), "")
	}
	v.port(h.Port, at.Child("port"))
	oneOf(v, at.Child("scheme"), h.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	for i, header := range h.HTTPHeaders {
		v.invalid(at.Child("httpHeaders").Index(i), header.Name, validation.IsHTTPHeaderName(header.Name)...)
	}
}

// port checks a port that is given by number or by the name of a port.
func (v *validator) port(p intstr.IntOrString, at *field.Path) {
	if p.Type == intstr.Int {
		v.invalid(at, p.IntValue(), validation.IsValidPortNum(p.IntValue())...)
	} else {
		v.invalid(at, p.StrVal, validation.IsValidPortName(p.StrVal)...)
	}
}
