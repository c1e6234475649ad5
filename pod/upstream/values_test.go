package upstream_test

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// enums are values of types that have few, besides which others are tried.
var enums = map[reflect.Type][]string{
	reflect.TypeFor[corev1.RestartPolicy]():                           {"Always", "OnFailure", "Never"},
	reflect.TypeFor[corev1.ContainerRestartPolicy]():                  {"Always", "OnFailure", "Never"},
	reflect.TypeFor[corev1.ContainerRestartRuleAction]():              {"Restart", "RestartAllContainers"},
	reflect.TypeFor[corev1.ContainerRestartRuleOnExitCodesOperator](): {"In", "NotIn"},
	reflect.TypeFor[corev1.DNSPolicy]():                               {"ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"},
	reflect.TypeFor[corev1.Protocol]():                                {"TCP", "UDP", "SCTP"},
	reflect.TypeFor[corev1.PullPolicy]():                              {"Always", "IfNotPresent", "Never"},
	reflect.TypeFor[corev1.URIScheme]():                               {"HTTP", "HTTPS"},
	reflect.TypeFor[corev1.HostPathType]():                            {"Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket", "CharDevice", "BlockDevice"},
	reflect.TypeFor[corev1.StorageMedium]():                           {"Memory", "HugePages"},
	reflect.TypeFor[corev1.MountPropagationMode]():                    {"None", "HostToContainer", "Bidirectional"},
	reflect.TypeFor[corev1.RecursiveReadOnlyMode]():                   {"Disabled", "IfPossible", "Enabled"},
	reflect.TypeFor[corev1.TerminationMessagePolicy]():                {"File", "FallbackToLogsOnError"},
	reflect.TypeFor[corev1.ProcMountType]():                           {"Default", "Unmasked"},
	reflect.TypeFor[corev1.SeccompProfileType]():                      {"RuntimeDefault", "Localhost", "Unconfined"},
	reflect.TypeFor[corev1.AppArmorProfileType]():                     {"RuntimeDefault", "Localhost", "Unconfined"},
	reflect.TypeFor[corev1.SupplementalGroupsPolicy]():                {"Merge", "Strict"},
	reflect.TypeFor[corev1.PodFSGroupChangePolicy]():                  {"Always", "OnRootMismatch"},
	reflect.TypeFor[corev1.PodSELinuxChangePolicy]():                  {"Recursive", "MountOption"},
	reflect.TypeFor[corev1.PreemptionPolicy]():                        {"Never", "PreemptLowerPriority"},
	reflect.TypeFor[corev1.OSName]():                                  {"linux"},
	reflect.TypeFor[corev1.Signal]():                                  {"SIGTERM", "SIGRTMIN+3", "SIGRTMAX-14", "SIGRTMAX", "TERM", "SIGRTMIN+16"},
	reflect.TypeFor[corev1.TolerationOperator]():                      {"Exists", "Equal", "Lt"},
	reflect.TypeFor[corev1.TaintEffect]():                             {"NoSchedule", "NoExecute", "PreferNoSchedule"},
	reflect.TypeFor[corev1.NodeSelectorOperator]():                    {"In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"},
	reflect.TypeFor[corev1.UnsatisfiableConstraintAction]():           {"DoNotSchedule", "ScheduleAnyway"},
	reflect.TypeFor[corev1.NodeInclusionPolicy]():                     {"Honor", "Ignore"},
	reflect.TypeFor[corev1.ResourceResizeRestartPolicy]():             {"NotRequired", "RestartContainer"},
	reflect.TypeFor[metav1.LabelSelectorOperator]():                   {"In", "NotIn", "Exists", "DoesNotExist"},
	reflect.TypeFor[corev1.Capability]():                              {"CAP_SYS_ADMIN", "NET_ADMIN"},
}

// words are strings that rules are about.
var words = []string{
	"", "a", "b", "c", "data", "config", "web", "my-name", "My-Name", "a_b", "a.b", "a.b.c", "-a", "a-", " a", "a b", "a=b", "A_B", "1a", "12", "80", "http",
	"/", "/a", "/data", "/a/../b", "..", "../a", "..a", "a/..", "a/b", "a/./b", "example.com/a", "kubernetes.io/a", "/example", "a/b/c",
	"busybox", "busybox:latest", "busybox:1.36", "reg.example:5000/a", "busybox@sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
	"busybox:latest@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
	"metadata.name", "metadata.labels", "metadata.labels['a']", "metadata.annotations['A/b']", "metadata.labels['-']", "metadata.name['a']", "metadata.uid", "spec.host",
	"spec.nodeName", "spec.restartPolicy", "status.podIP", "status.hostIPs", "status.nope", "['a']", "v1", "v2",
	"limits.cpu", "requests.memory", "limits.ephemeral-storage", "limits.hugepages-2Mi", "limits.nope", "cpu", "memory",
	"1.2.3.4", "::1", "01.2.3.4", "::ffff:1.2.3.4", "1.2.3", "net.core.somaxconn", "net/core/somaxconn", "kernel.shm_rmid_forced", "fs.mqueue.msg_max", "Net.core", "kernel.sem",
	"Content-Type", "X Y", "é", "日本", "\n", "$(A)", ".", "example.com.", "_tcp.example.com", "*",
	strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a", 253), strings.Repeat("a", 254), strings.Repeat("a", 2100),
}

var numbers = []int64{0, 1, -1, 2, 3, 10, 30, 31, 65535, 65536, 0o644, 0o777, 0o1000, 0o1777, 100, 101, 255, 256, math.MaxInt32, math.MaxInt32 + 1, math.MinInt32, math.MaxInt64}

var quantities = []string{"0", "1", "-1", "1m", "0.5", "0.0001", "100m", "1.5", "2", "64Mi", "128Mi", "1Gi", "1k", "2M", "1E", "1Ki", "100", "1e3", "-1Gi", "3n"}

// scalar sets what has no parts.
func (m mutator) scalar(v reflect.Value, path string) {
	switch v.Interface().(type) {
	case resource.Quantity:
		v.Set(reflect.ValueOf(resource.MustParse(quantities[m.IntN(len(quantities))])))
		return
	case intstr.IntOrString:
		if m.IntN(2) == 0 {
			v.Set(reflect.ValueOf(intstr.FromInt32(int32(m.number()))))
		} else {
			v.Set(reflect.ValueOf(intstr.FromString(m.word())))
		}
		return
	case metav1.Time:
		v.Set(reflect.ValueOf(metav1.NewTime(time.Unix(m.number()%1e9, 0))))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(m.IntN(2) == 0)
	case reflect.Int32:
		v.SetInt(int64(int32(m.number())))
	case reflect.Int64:
		v.SetInt(m.number())
	case reflect.String:
		if values := enums[v.Type()]; values != nil && m.IntN(8) > 0 {
			v.SetString(m.pick(values...))
			return
		}
		v.SetString(m.word())
	}
}

func (m mutator) number() int64 {
	if m.IntN(3) == 0 {
		return int64(m.IntN(100))
	}
	return numbers[m.IntN(len(numbers))]
}

// word is a string that a rule may be about, or a name that the pod has.
func (m mutator) word() string {
	if n := len(m.pod.Spec.Volumes); n > 0 && m.IntN(4) == 0 {
		return m.pod.Spec.Volumes[m.IntN(n)].Name
	}
	if n := len(m.pod.Spec.Containers); n > 0 && m.IntN(8) == 0 {
		return m.pod.Spec.Containers[m.IntN(n)].Name
	}
	return words[m.IntN(len(words))]
}

func deepCopy(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type())
	data, err := json.Marshal(v.Interface())
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(data, out.Interface()); err != nil {
		panic(err)
	}
	return out.Elem()
}

func toJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}
