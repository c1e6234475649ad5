package volume_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/internal/linux"
	"get.podrun.dev/podrun/volume"
)

// objects is what volumes are made of in the tests.
type objects struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	claims     map[string]bool
	fields     map[string]string
	images     map[string]linux.Mount
}

func (o *objects) ConfigMap(name string) (*corev1.ConfigMap, error) {
	if m := o.configMaps[name]; m != nil {
		return m, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("configmap"), name)
}

func (o *objects) Secret(name string) (*corev1.Secret, error) {
	if s := o.secrets[name]; s != nil {
		return s, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("secret"), name)
}

func (o *objects) Claim(name string) (*corev1.PersistentVolumeClaim, error) {
	if o.claims[name] {
		return &corev1.PersistentVolumeClaim{}, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("persistentvolumeclaim"), name)
}

func (o *objects) Field(path string) (string, error) { return o.fields[path], nil }

func (o *objects) Resource(ref *corev1.ResourceFieldSelector) (string, error) {
	return o.fields[ref.Resource], nil
}

func (o *objects) Image(name string) (linux.Mount, error) { return o.images[name], nil }

func (o *objects) setConfigMap(name string, data ...string) {
	m := &corev1.ConfigMap{Data: map[string]string{}}
	for _, kv := range data {
		k, v, _ := strings.Cut(kv, "=")
		m.Data[k] = v
	}
	if o.configMaps == nil {
		o.configMaps = map[string]*corev1.ConfigMap{}
	}
	o.configMaps[name] = m
}

func ptr[T any](v T) *T { return &v }

func configMap(name string, optional bool, items ...corev1.KeyToPath) corev1.VolumeSource {
	return corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Items: items, Optional: &optional, DefaultMode: ptr(int32(0o640)),
	}}
}

// listing is every file that a reader of dir finds, as PATH=CONTENT MODE.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	top, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range top {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		real, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := filepath.WalkDir(real, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			info, err := d.Info()
			list = append(list, e.Name()+strings.TrimPrefix(path, real)+"="+string(data)+" "+info.Mode().String())
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(list)
	return list
}

func mustList(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := listing(t, dir); !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
}

func TestConfigMap(t *testing.T) {
	o := &objects{}
	o.setConfigMap("cm", "a=1", "b=2")
	o.configMaps["cm"].BinaryData = map[string][]byte{"bin": {0xff}}
	m := volume.New(t.TempDir(), t.TempDir())
	p := podWith("u", configMap("cm", false), configMap("cm", false, corev1.KeyToPath{Key: "a", Path: "dir/x", Mode: ptr(int32(0o400))}, corev1.KeyToPath{Key: "b", Path: "dir/y"}), configMap("no", true))
	v, err := m.Prepare(p, o)
	if err != nil {
		t.Fatal(err)
	}
	mustList(t, v["v0"].Path, "a=1 -rw-r-----", "b=2 -rw-r-----", "bin=\xff -rw-r-----")
	mustList(t, v["v1"].Path, "dir/x=1 -r--------", "dir/y=2 -rw-r-----")
	mustList(t, v["v2"].Path)
	if !v["v0"].ReadOnly {
		t.Error("a container could write into the volume")
	}

	// What does not change keeps its directory; what does changes at once.
	link := func(name string) string {
		to, err := os.Readlink(filepath.Join(v[name].Path, "..data"))
		if err != nil {
			t.Fatal(err)
		}
		return to
	}
	first := link("v0")
	if err := m.Refresh(p, o); err != nil || link("v0") != first {
		t.Errorf("written again: %s, %v", link("v0"), err)
	}
	reader, err := os.Open(filepath.Join(v["v0"].Path, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	o.setConfigMap("cm", "b=3", "c=4", "a=1")
	if err := m.Refresh(p, o); err != nil {
		t.Fatal(err)
	}
	mustList(t, v["v0"].Path, "a=1 -rw-r-----", "b=3 -rw-r-----", "c=4 -rw-r-----")
	mustList(t, v["v1"].Path, "dir/x=1 -r--------", "dir/y=3 -rw-r-----")
	if link("v0") == first {
		t.Error("the link did not move")
	}
	o.setConfigMap("no", "late=1")
	if err := m.Refresh(p, o); err != nil {
		t.Fatal(err)
	}
	mustList(t, v["v2"].Path, "late=1 -rw-r-----")

	// What a crash left is removed by the next change; a deleted object changes
	// nothing.
	left := filepath.Join(v["v0"].Path, "..2000_01_01_00_00_00.1")
	if err := errors.Join(os.Mkdir(left, 0o700), os.Symlink("x", filepath.Join(v["v0"].Path, "..data_tmp"))); err != nil {
		t.Fatal(err)
	}
	o.setConfigMap("cm", "b=5", "a=1")
	if err := m.Refresh(p, o); err != nil {
		t.Fatal(err)
	}
	if found, _ := filepath.Glob(filepath.Join(v["v0"].Path, "..*")); len(found) != 2 {
		t.Errorf("left: %q", found)
	}
	delete(o.configMaps, "cm")
	if err := m.Refresh(p, o); err == nil || !strings.Contains(err.Error(), `MountVolume.SetUp failed for volume "v0" : configmap "cm" not found`) {
		t.Errorf("error %v", err)
	}
	if again, err := m.Prepare(p, o); err != nil || again["v0"] != v["v0"] {
		t.Errorf("a restart: %v, %v", again, err)
	}
	mustList(t, v["v0"].Path, "a=1 -rw-r-----", "b=5 -rw-r-----")
	if err := m.Remove("u"); err != nil {
		t.Fatal(err)
	}
}

// TestSecretInMemory looks for a secret on disk.
func TestSecretInMemory(t *testing.T) {
	data, state := t.TempDir(), t.TempDir()
	m := volume.New(data, state)
	o := &objects{secrets: map[string]*corev1.Secret{"s": {Data: map[string][]byte{"k": []byte("hush")}}}, fields: map[string]string{"metadata.labels": `a="1"`, "limits.cpu": "2"}}
	o.setConfigMap("cm", "a=1")
	p := podWith("u",
		corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: ptr(int32(0o400))}},
		corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Items: []corev1.KeyToPath{{Key: "k", Path: "s/k"}}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
		}}},
		corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}, Mode: ptr(int32(0o444))},
		}}},
	)
	v, err := m.Prepare(p, o)
	if err != nil {
		t.Fatal(err)
	}
	mustList(t, v["v0"].Path, "k=hush -r--------")
	mustList(t, v["v1"].Path, "a=1 -rw-r--r--", `labels=a="1" -rw-r--r--`, "s/k=hush -rw-r--r--")
	mustList(t, v["v2"].Path, "cpu=2 -r--r--r--")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"v0", "v1"} {
		if !strings.Contains(string(mounts), " "+v[name].Path+" ") {
			t.Errorf("%s is on disk", name)
		}
	}
	if strings.Contains(string(mounts), v["v2"].Path) {
		t.Error("what holds no secret needs no mount")
	}
	if err := m.Remove("u"); err != nil {
		t.Fatal(err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), state) {
		t.Errorf("a mount is left below %s (%v)", state, err)
	}
}

func TestMissing(t *testing.T) {
	o := &objects{secrets: map[string]*corev1.Secret{"s": {}}}
	o.setConfigMap("cm")
	missing := corev1.KeyToPath{Key: "no", Path: "no"}
	for _, c := range []struct {
		source corev1.VolumeSource
		want   string
	}{
		{configMap("no", false), `configmap "no" not found`},
		{configMap("cm", false, missing), "configmap references non-existent config key: no"},
		{configMap("cm", true, missing), ""},
		{corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "no"}}, `secret "no" not found`},
		{corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", Items: []corev1.KeyToPath{missing}}}, "references non-existent secret key: no"},
		{corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "no"}}, `persistentvolumeclaim "no" not found`},
		{configMap("cm", false, corev1.KeyToPath{}), "configmap references non-existent config key: "},
	} {
		m := volume.New(t.TempDir(), t.TempDir())
		_, err := m.Prepare(podWith("u", c.source), o)
		want := `MountVolume.SetUp failed for volume "v0" : ` + c.want
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if err := m.Remove("u"); err != nil {
			t.Fatal(err)
		}
	}
	// No file leaves the volume, whatever validation let pass.
	o.setConfigMap("cm", "k=v")
	for _, path := range []string{"../x", "/x", "..", "a/../../x", "..x"} {
		m := volume.New(t.TempDir(), t.TempDir())
		if _, err := m.Prepare(podWith("u", configMap("cm", false, corev1.KeyToPath{Key: "k", Path: path})), o); err == nil || !strings.Contains(err.Error(), "leads out of the volume") {
			t.Errorf("path %q: %v", path, err)
		}
	}
}

// TestRemoveClaim: what a crash left of a claim in the making goes with it,
// whatever the data directory is called.
func TestRemoveClaim(t *testing.T) {
	data := filepath.Join(t.TempDir(), "my [data")
	m := volume.New(data, t.TempDir())
	path := volume.ClaimDir(data, "ns", "c")
	for _, dir := range []string{path, filepath.Join(filepath.Dir(path), ".ns_c_123"), volume.ClaimDir(data, "ns", "other")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.RemoveClaim("ns", "c"); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 || left[0].Name() != "ns_other" {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := m.RemoveClaim("nowhere", "c"); err != nil {
		t.Errorf("of a namespace without claims: %v", err)
	}
}

// TestClaim shows that the files of a claim outlive their pods.
func TestClaim(t *testing.T) {
	m := volume.New(t.TempDir(), t.TempDir())
	o := &objects{claims: map[string]bool{"c": true}}
	for i, uid := range []string{"one", "two"} {
		p := podWith(uid, corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: i == 1}})
		p.Namespace = "ns"
		v, err := m.Prepare(p, o)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(v["v0"].Path, "f")
		if i == 0 {
			err = os.WriteFile(file, nil, 0o600)
		} else {
			_, err = os.Stat(file)
		}
		if err != nil || v["v0"].ReadOnly != (i == 1) {
			t.Errorf("%s: %v, %+v", uid, err, v)
		}
		if err := errors.Join(m.Remove(uid), m.Sweep(nil)); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			if err := errors.Join(m.RemoveClaim("ns", "c"), m.RemoveClaim("ns", "c")); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(v["v0"].Path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("left: %v", err)
			}
		}
	}
}
