package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"get.podrun.dev/podrun/node"
)

func imageID(img *node.Image, whole bool) string {
	if whole {
		return string(img.ID)
	}
	return cut(img.ID.Hex(), idDigits, false)
}

// digest is what the line's name stands for in its registry.
func (l *namedImage) digest() string {
	if d, ok := l.Digests[l.name]; ok {
		return string(d)
	}
	return string(l.Digest)
}

// imageTable is "podrun images".
func imageTable(list []namedImage, whole, digests bool, now time.Time) grid {
	t := grid{headers: []string{"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"}}
	if digests {
		t.headers = []string{"REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"}
	}
	for _, l := range list {
		repository, tag := splitName(l.name)
		row := []string{repository, tag, imageID(l.Image, whole), since(l.Created, now), size(l.Size)}
		if digests {
			row = slices.Insert(row, 2, orNone(l.digest()))
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// imageRecords are the fields of docker's "images --format".
func imageRecords(list []namedImage, whole bool, now time.Time) records {
	r := records{headers: map[string]string{
		"ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED",
		"CreatedAt": "CREATED AT", "Size": "SIZE", "VirtualSize": "SIZE",
	}}
	for _, l := range list {
		repository, tag := splitName(l.name)
		r.rows = append(r.rows, object{
			"ID": imageID(l.Image, whole), "Repository": repository, "Tag": tag, "Digest": orNone(l.digest()),
			"CreatedSince": since(l.Created, now), "CreatedAt": createdAt(l.Created), "Size": size(l.Size), "VirtualSize": size(l.Size),
		})
	}
	return r
}

func createdAt(t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return t.Local().Format("2006-01-02 15:04:05 -0700 MST")
}

// inspection is an image as "docker image inspect" shows it.
type inspection struct {
	ID            string `json:"Id"`
	RepoTags      []string
	RepoDigests   []string
	Comment       string
	Created       string
	Author        string
	Config        *v1.Config
	Architecture  string
	Variant       string `json:",omitempty"`
	Os            string
	Size          int64
	GraphDriver   graphDriver
	RootFS        rootFS
	Metadata      metadata
	Descriptor    *node.Pushed `json:",omitempty"` // of what is kept of it as it came
	PodrunContent content      `json:"Content"`
}

type graphDriver struct {
	Data map[string]string
	Name string
}

type rootFS struct {
	Type   string
	Layers []string
}

type metadata struct{ LastTagTime, LastUsedTime time.Time }

// content is what save and push need.
type content struct {
	Manifest string
	Layers   []node.Pushed
}

func inspectImage(d *node.ImageDetail) (*inspection, error) {
	img := d.Image
	i := &inspection{
		ID: string(img.ID), RepoTags: []string{}, RepoDigests: []string{}, Created: img.Created.UTC().Format(time.RFC3339Nano),
		Architecture: img.Platform.Architecture, Variant: img.Platform.Variant, Os: img.Platform.OS, Size: img.Size,
		GraphDriver: graphDriver{Name: "overlay", Data: map[string]string{}}, RootFS: rootFS{Type: "layers", Layers: []string{}},
		Metadata:      metadata{LastTagTime: img.Pulled, LastUsedTime: d.Used},
		PodrunContent: content{Manifest: string(img.Manifest), Layers: img.Blobs},
	}
	for _, name := range img.References {
		repository, tag := splitName(name)
		if tag != none {
			i.RepoTags = append(i.RepoTags, repository+":"+tag)
		}
		if top := d.Digests[name]; top != "" && !slices.Contains(i.RepoDigests, repository+"@"+string(top)) {
			i.RepoDigests = append(i.RepoDigests, repository+"@"+string(top))
		}
	}
	for _, l := range img.Layers {
		i.RootFS.Layers = append(i.RootFS.Layers, string(l))
	}
	if n := len(d.Dirs); n > 0 {
		i.GraphDriver.Data["UpperDir"] = d.Dirs[n-1]
		lower := slices.Clone(d.Dirs[:n-1])
		slices.Reverse(lower)
		if len(lower) > 0 {
			i.GraphDriver.Data["LowerDir"] = strings.Join(lower, ":")
		}
	}
	if d.Raw == nil { // of an older podrun
		i.Config = &v1.Config{
			Entrypoint: img.Config.Entrypoint, Cmd: img.Config.Cmd, Env: img.Config.Env, User: img.Config.User,
			WorkingDir: img.Config.WorkingDir, StopSignal: img.Config.StopSignal, Labels: img.Config.Labels,
		}
		return i, nil
	}
	var file v1.ConfigFile
	if err := json.Unmarshal(d.Raw, &file); err != nil {
		return nil, err
	}
	i.Config, i.Author = &file.Config, file.Author
	for _, h := range file.History {
		if h.Comment != "" {
			i.Comment = h.Comment
		}
	}
	return i, nil
}

// historyRecords are the steps by which an image was made, the last first.
func historyRecords(d *node.ImageDetail, sizes []int64, whole, humans bool, now time.Time) (records, error) {
	r := records{headers: map[string]string{
		"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT",
	}}
	var file v1.ConfigFile
	if err := json.Unmarshal(d.Raw, &file); err != nil {
		return r, err
	}
	layer := 0
	for _, h := range file.History {
		var n int64
		if !h.EmptyLayer && layer < len(sizes) {
			n = sizes[layer]
			layer++
		}
		row := object{
			"ID": "<missing>", "CreatedSince": since(h.Created.Time, now), "CreatedAt": historyTime(h.Created.Time),
			"CreatedBy": ellipsis(strings.TrimPrefix(h.CreatedBy, "/bin/sh -c #(nop) "), 45, whole), "Comment": h.Comment, "Size": size(n),
		}
		if !humans {
			row["CreatedSince"], row["Size"] = row["CreatedAt"], fmt.Sprint(n)
		}
		r.rows = append(r.rows, row)
	}
	slices.Reverse(r.rows)
	if len(r.rows) > 0 {
		r.rows[0]["ID"] = imageID(d.Image, whole)
	}
	return r, nil
}

// historyTime is a time of an image's history, which need not have any.
func historyTime(t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return t.Format(time.RFC3339)
}
