package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
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
	case corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate:
		// Nothing checks a path of no type, and the container runtimes make it.
		if _, err := os.Stat(source.Path); errors.Is(err, fs.ErrNotExist) {
			if err := os.MkdirAll(source.Path, 0o755); err != nil {
				return "", err
			}
		}
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(source.Path, os.O_CREATE|os.O_RDONLY|unix.O_NONBLOCK, 0o644)
		if errors.Is(err, unix.EISDIR) {
			break // the check below words it
		}
		if err != nil {
			return "", err
		}
		if err := f.Close(); err != nil {
			return "", err
		}
	}
	info, err := os.Stat(source.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err != nil || !kindMatches(info.Mode(), kind) {
		return "", fmt.Errorf("hostPath type check failed: %s is not a %s", source.Path, kindNames[kind])
	}
	return source.Path, nil
}

// kindNames are the kubelet's words.
var kindNames = map[corev1.HostPathType]string{
	corev1.HostPathDirectory: "directory", corev1.HostPathDirectoryOrCreate: "directory",
	corev1.HostPathFile: "file", corev1.HostPathFileOrCreate: "file",
	corev1.HostPathSocket: "socket file", corev1.HostPathCharDev: "character device", corev1.HostPathBlockDev: "block device",
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
