package image

import (
	"strings"
	"testing"

	"get.podrun.dev/podrun/internal/linux"
)

func TestHowManyLayers(t *testing.T) {
	t.Parallel()
	most := mostLayers
	if linux.HasManyLayers() != nil { // an old kernel
		most = layersOfPage
	}
	for n, ok := range map[int]bool{0: true, layersOfPage: true, most: true, most + 1: false, 5000: false} {
		err := checkLayers(n)
		if ok != (err == nil) || err != nil && !strings.Contains(err.Error(), "layers; ") {
			t.Errorf("%d layers: %v", n, err)
		}
	}
}
