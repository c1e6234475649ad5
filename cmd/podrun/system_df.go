package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

func systemDfCommand(c *cli) *cobra.Command {
	var verbose bool
	var format string
	command := &cobra.Command{
		Use:   "df [-v]",
		Short: "Show what images, containers and volumes take on disk",
		Long: `Show what images, containers and volumes take on disk.

An image takes its unpacked layers, which images share, and its content as it
came, for save and push. Local volumes are PersistentVolumeClaims.`,
		Example: "  podrun system df -v",
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("df takes no arguments")
			}
			return c.systemDf(command.Context(), verbose, format)
		},
	}
	command.Flags().BoolVarP(&verbose, "verbose", "v", false, "each image, container and volume")
	command.Flags().StringVar(&format, "format", "", formatHelp)
	return command
}

func (c *cli) systemDf(ctx context.Context, verbose bool, format string) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	u, err := client.DiskUsage(ctx)
	if err != nil {
		return fmt.Errorf("cannot measure the disk: %w", cause(err))
	}
	if verbose {
		return c.verboseDf(u, format, time.Now())
	}
	if format == "" || format == "table" {
		format = `table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}`
	}
	return dfRecords(u).print(c.out, format)
}

// dfRecords are the lines of "system df".
func dfRecords(u *node.DiskUsage) records {
	r := records{headers: map[string]string{
		"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE",
	}}
	add := func(kind string, total, active int, bytes, free int64) {
		reclaimable := size(free)
		if bytes > 0 {
			reclaimable += fmt.Sprintf(" (%d%%)", free*100/bytes)
		}
		r.rows = append(r.rows, object{
			"Type": kind, "TotalCount": fmt.Sprint(total), "Active": fmt.Sprint(active), "Size": size(bytes), "Reclaimable": reclaimable,
		})
	}
	active, free := 0, u.Images.Layers+u.Images.Blobs
	kept := map[string]bool{} // layers and content of images in use
	for _, img := range u.Images.Images {
		if len(u.ImageUsers[string(img.Image.ID)]) == 0 {
			continue
		}
		active++
		for digest, n := range img.Parts {
			if !kept[digest] {
				kept[digest] = true
				free -= n
			}
		}
	}
	add("Images", len(u.Images.Images), active, u.Images.Layers+u.Images.Blobs, free)
	active, free, all := 0, 0, int64(0)
	for _, ctr := range u.Containers {
		all += ctr.Size
		if ctr.State == "running" {
			active++
		} else {
			free += ctr.Size
		}
	}
	add("Containers", len(u.Containers), active, all, free)
	active, free, all = 0, 0, 0
	for _, claim := range u.Claims {
		all += claim.Size
		if len(claim.Pods) > 0 {
			active++
		} else {
			free += claim.Size
		}
	}
	add("Local Volumes", len(u.Claims), active, all, free)
	return r
}

// dfTable is one of the lists of "system df -v".
type dfTable struct {
	name    string // of the field that has it
	title   string
	columns string // a template
	records
}

// verboseDf prints docker's tables, one for each kind, or one object that has them
// as lists.
func (c *cli) verboseDf(u *node.DiskUsage, format string, now time.Time) error {
	tables := []dfTable{dfImages(u, now), dfContainers(u, now), dfVolumes(u)}
	if format != "" && format != "table" {
		all := object{}
		for _, t := range tables {
			rows := []any{}
			for _, row := range t.rows {
				rows = append(rows, row)
			}
			all[t.name] = rows
		}
		return records{rows: []object{all}}.print(c.out, format)
	}
	for i, t := range tables {
		if i > 0 {
			fmt.Fprintln(c.out)
		}
		fmt.Fprintf(c.out, "%s\n\n", t.title)
		if err := t.print(c.out, "table "+t.columns); err != nil {
			return err
		}
	}
	return nil
}

func dfImages(u *node.DiskUsage, now time.Time) dfTable {
	t := dfTable{
		name: "Images", title: "Images space usage:",
		columns: `{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.ContentSize}}\t{{.Containers}}`,
	}
	t.headers = map[string]string{
		"Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE", "SharedSize": "SHARED SIZE",
		"UniqueSize": "UNIQUE SIZE", "ContentSize": "CONTENT SIZE", "Containers": "CONTAINERS",
	}
	for _, img := range u.Images.Images {
		names := img.Image.References
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			repository, tag := splitName(name)
			t.rows = append(t.rows, object{
				"Repository": repository, "Tag": tag, "ID": imageID(img.Image, false), "CreatedSince": since(img.Image.Created, now),
				"Size": size(img.Shared + img.Unique), "SharedSize": size(img.Shared), "UniqueSize": size(img.Unique), "ContentSize": size(img.Content),
				"Containers": fmt.Sprint(len(u.ImageUsers[string(img.Image.ID)])),
			})
		}
	}
	return t
}

func dfContainers(u *node.DiskUsage, now time.Time) dfTable {
	t := dfTable{
		name: "Containers", title: "Containers space usage:",
		columns: `{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Pod}}\t{{.Names}}`,
	}
	t.headers = map[string]string{
		"ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "Size": "SIZE", "RunningFor": "CREATED", "Status": "STATUS", "Pod": "POD", "Names": "NAME",
	}
	for _, ctr := range u.Containers {
		t.rows = append(t.rows, object{
			"ID": cut(ctr.ID, idDigits, false), "Image": ctr.Image, "Command": `"` + ellipsis(commandLine(ctr.Command), 20, false) + `"`,
			"Size": size(ctr.Size), "RunningFor": since(ctr.Created, now), "Status": containerStatus(ctr.Container, now),
			"Pod": ctr.Namespace + "/" + ctr.Pod, "Names": ctr.Name,
		})
	}
	return t
}

func dfVolumes(u *node.DiskUsage) dfTable {
	t := dfTable{name: "Volumes", title: "Local Volumes space usage:", columns: `{{.Name}}\t{{.Links}}\t{{.Size}}`}
	t.headers = map[string]string{"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}
	for _, claim := range u.Claims {
		t.rows = append(t.rows, object{
			"Name": claim.Namespace + "/" + claim.Name, "Links": fmt.Sprint(len(claim.Pods)), "Size": size(claim.Size),
		})
	}
	return t
}
