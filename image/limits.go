package image

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"get.podrun.dev/podrun/internal/untar"
)

// The variables of the node's environment that set limits. The node has the
// environment of the command that started it.
const (
	downloadVariable = "PODRUN_IMAGE_MAX_DOWNLOAD"
	layerVariable    = "PODRUN_LAYER_MAX_SIZE"
	filesVariable    = "PODRUN_LAYER_MAX_FILES"
	parallelVariable = "PODRUN_PULL_PARALLEL"
	stallVariable    = "PODRUN_PULL_TIMEOUT"
)

// What an image may be and take, unless the environment says otherwise.
const (
	defaultDownload = 64 << 30 // bytes, compressed, of all layers of one image
	defaultParallel = 4        // layers on their way at once
)

// PullLimits bound what a registry can make podrun do. The zero value of each field
// stands for its default.
type PullLimits struct {
	Download int64         // bytes to download for one image
	Layer    untar.Limits  // of what one layer may unpack to, wherever it comes from
	Parallel int           // layers on their way at once, of all pulls
	Stall    time.Duration // without a byte a connection is given up
	Pause    time.Duration // before the second try, doubled with each
	Tries    int           // of one request
}

// PullLimitsFromEnvironment reads them from the process's environment.
func PullLimitsFromEnvironment() (PullLimits, error) {
	var l PullLimits
	var err error
	if s := os.Getenv(downloadVariable); s != "" {
		if l.Download, err = parseSize(s); err != nil {
			return l, fmt.Errorf("%s: %w", downloadVariable, err)
		}
	}
	if s := os.Getenv(layerVariable); s != "" {
		if l.Layer.Bytes, err = parseSize(s); err != nil {
			return l, fmt.Errorf("%s: %w", layerVariable, err)
		}
	}
	if s := os.Getenv(filesVariable); s != "" {
		if l.Layer.Entries, err = strconv.Atoi(s); err != nil || l.Layer.Entries < 1 {
			return l, fmt.Errorf("%s: %q is not a number above 0", filesVariable, s)
		}
	}
	if s := os.Getenv(parallelVariable); s != "" {
		if l.Parallel, err = strconv.Atoi(s); err != nil || l.Parallel < 1 {
			return l, fmt.Errorf("%s: %q is not a number above 0", parallelVariable, s)
		}
	}
	if s := os.Getenv(stallVariable); s != "" {
		if l.Stall, err = time.ParseDuration(s); err != nil || l.Stall <= 0 {
			return l, fmt.Errorf("%s: %q is not a time such as 30s", stallVariable, s)
		}
	}
	return l, nil
}

func (l PullLimits) orDefault() PullLimits {
	if l.Download <= 0 {
		l.Download = defaultDownload
	}
	if l.Parallel <= 0 {
		l.Parallel = defaultParallel
	}
	return l
}

// parseSize reads a number of bytes, with a suffix such as Gi or G if it is
// large.
func parseSize(s string) (int64, error) {
	units := []struct {
		suffix string
		factor int64
	}{{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"", 1}}
	for _, u := range units {
		if number, ok := strings.CutSuffix(s, u.suffix); ok {
			n, err := strconv.ParseInt(number, 10, 64)
			if err != nil || n <= 0 || n > (1<<63-1)/u.factor {
				break
			}
			return n * u.factor, nil
		}
	}
	return 0, fmt.Errorf("%q is not a size such as 20Gi", s)
}
