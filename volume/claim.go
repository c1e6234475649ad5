package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
)

// ClaimDir is where the files of a claim lie.
func ClaimDir(dataDir, namespace, name string) string {
	// No name of Kubernetes has an underscore.
	return filepath.Join(dataDir, "claims", namespace+"_"+name)
}

// claim makes the directory of a claim, or finds it made: it outlives the pod.
func (m *Manager) claim(namespace string, source *corev1.PersistentVolumeClaimVolumeSource, from Sources, own ownership) (string, error) {
	if _, err := from.Claim(source.ClaimName); err != nil {
		return "", err
	}
	path := m.claimDir(namespace, source.ClaimName)
	if err := makeDir(path, nil); err != nil {
		return "", err
	}
	own.readOnly = source.ReadOnly
	return path, own.apply(path)
}

// RemoveClaim removes the files of a claim. No pod may use it any more. It may
// be called again, and for a claim that no pod ever used.
func (m *Manager) RemoveClaim(namespace, name string) error {
	dir, last := filepath.Split(m.claimDir(namespace, name))
	names, err := fs.Glob(os.DirFS(dir), unfinished(last)) // by a crash
	errs := []error{err}
	for _, name := range append(names, last) {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

func (m *Manager) claimDir(namespace, name string) string {
	return ClaimDir(filepath.Dir(m.claims), namespace, name)
}
