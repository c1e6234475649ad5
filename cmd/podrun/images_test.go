package main

import (
	"testing"
	"time"

	"get.podrun.dev/podrun/node"
)

// TestSelectImages: the lines that a filter leaves are those of their images,
// also when images before them are left out.
func TestSelectImages(t *testing.T) {
	made := now.Add(-time.Hour)
	list := []node.Image{
		{ID: "sha256:aaaaaaaaaaaaaaaa", References: []string{"docker.io/library/alpine:latest"}, Created: made, Size: 1},
		{ID: "sha256:bbbbbbbbbbbbbbbb", References: []string{"docker.io/library/busybox:latest", "docker.io/me/box:v1"}, Created: made, Size: 2},
		{ID: "sha256:cccccccccccccccc", Created: made, Size: 3},
		{ID: "sha256:dddddddddddddddd", References: []string{"docker.io/library/nginx:latest"}, Created: made, Size: 4},
	}
	for _, tt := range []struct{ filter, want string }{
		{"reference=alpine", "aaaaaaaaaaaa alpine:latest 1B\n"},
		{"reference=busybox", "bbbbbbbbbbbb busybox:latest 2B\n"},
		{"reference=me/*", "bbbbbbbbbbbb me/box:v1 2B\n"},
		{"dangling=true", "cccccccccccc <none>:<none> 3B\n"},
		{"reference=nginx", "dddddddddddd nginx:latest 4B\n"},
		{"reference=nosuch", ""},
	} {
		keep, err := parseImageFilters([]string{tt.filter}, list, now)
		if err != nil {
			t.Fatal(err)
		}
		lines, shown := selectImages(list, keep)
		got := ""
		for _, row := range imageTable(lines, false, false, now).rows {
			got += row[2] + " " + row[0] + ":" + row[1] + " " + row[4] + "\n"
		}
		if got != tt.want {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.filter, got, tt.want)
		}
		if len(lines) != len(shown) || shown == nil || len(shown) == 1 && shown[0].ID != lines[0].ID {
			t.Errorf("%s: lines %v, images %v", tt.filter, lines, shown)
		}
	}
}
