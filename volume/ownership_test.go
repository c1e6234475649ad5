package volume_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/volume"
)

// fsGroup gives a pod the group; the tests' user namespace maps 0 only.
func fsGroup(p *corev1.Pod, group int64, policy corev1.PodFSGroupChangePolicy) *corev1.Pod {
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group, FSGroupChangePolicy: &policy}
	return p
}

func mode(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Mode & 0o7777
}

func TestFSGroup(t *testing.T) {
	m := volume.New(t.TempDir(), t.TempDir())
	o := &objects{claims: map[string]bool{"c": true}}
	o.setConfigMap("cm", "k=v")
	claim := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}
	prepare := func(uid string, policy corev1.PodFSGroupChangePolicy) map[string]volume.Volume {
		p := fsGroup(podWith(uid, emptyDir("", ""), emptyDir(corev1.StorageMediumMemory, ""), configMap("cm", false), claim), 0, policy)
		p.Namespace = "ns"
		v, err := m.Prepare(p, o)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := prepare("one", corev1.FSGroupChangeAlways)
	if got := mode(t, v["v0"].Path); got != 0o2777 {
		t.Errorf("emptyDir %o", got)
	}
	if got := mode(t, v["v1"].Path); got != 0o3777 {
		t.Errorf("emptyDir in memory %o", got)
	}
	if got := mode(t, filepath.Join(v["v2"].Path, "..data", "k")); got != 0o640 {
		t.Errorf("file of a ConfigMap %o, want its 0640", got)
	}
	if got := mode(t, filepath.Join(v["v2"].Path, "..data")+"/"); got&unix.S_ISGID == 0 {
		t.Errorf("directory of a ConfigMap %o", got)
	}

	// Always changes what is in a claim, OnRootMismatch only if its root is not
	// as it should be. A link's target outside is left alone.
	outside := filepath.Join(t.TempDir(), "f")
	file, dir := filepath.Join(v["v3"].Path, "f"), filepath.Join(v["v3"].Path, "d")
	for _, err := range []error{os.WriteFile(outside, nil, 0o600), os.Mkdir(dir, 0o700), os.WriteFile(file, nil, 0o600), os.Symlink(outside, filepath.Join(dir, "link"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	prepare("two", corev1.FSGroupChangeOnRootMismatch)
	if got := mode(t, file); got != 0o600 {
		t.Errorf("changed to %o though the root was right", got)
	}
	prepare("three", corev1.FSGroupChangeAlways)
	if f, d, out := mode(t, file), mode(t, dir), mode(t, outside); f != 0o660 || d != 0o2770 || out != 0o600 {
		t.Errorf("modes %o %o %o", f, d, out)
	}
	if err := os.Chmod(v["v3"].Path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	prepare("four", corev1.FSGroupChangeOnRootMismatch)
	if f := mode(t, file); f != 0o660 {
		t.Errorf("mode %o", f)
	}
	for _, uid := range []string{"one", "two", "three", "four"} {
		if err := m.Remove(uid); err != nil {
			t.Fatal(err)
		}
	}
	_, err := m.Prepare(fsGroup(podWith("five", emptyDir("", "")), 77777, ""), o)
	if err == nil || !strings.Contains(err.Error(), "fsGroup: group ID 77777 is not mapped in the user namespace") {
		t.Errorf("error %v", err)
	}
}
