package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	corev1 "k8s.io/api/core/v1"
)

// hostPath checks, and for the types that ask for it makes, a path of the host
// (https://kubernetes.io/docs/concepts/storage/volumes/#hostpath-volume-types).
// It sees the host as the user does: what the user may not read, a pod may not.
func hostPath(source *corev1.HostPathVolumeSource) (string, error) {
	kind := corev1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	switch kind {
	case corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(source.Path, 0o755); err != nil {
			return "", err
		}
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(source.Path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return "", err
		}
		if err := f.Close(); err != nil {
			return "", err
		}
	}
	info, err := os.Stat(source.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("hostPath %s does not exist", source.Path)
	}
	if err != nil {
		return "", err
	}
	if !kindMatches(info.Mode(), kind) {
		return "", fmt.Errorf("hostPath type check failed: %s is not a %s", source.Path, kind)
	}
	return source.Path, nil
}

func kindMatches(mode fs.FileMode, kind corev1.HostPathType) bool {
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		return mode.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		return mode.IsRegular()
	case corev1.HostPathSocket:
		return mode&fs.ModeSocket != 0
	case corev1.HostPathCharDev:
		return mode&fs.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		return mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
	}
	return true
}
