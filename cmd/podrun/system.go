package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

func systemCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:     "system",
		Short:   "Look after the node and what it keeps on disk",
		Example: "  podrun system df -v",
		Args:    cobra.ArbitraryArgs,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return command.Help()
			}
			return unknownCommand(command, args[0])
		},
	}
	command.AddCommand(
		systemDfCommand(c), systemEnableCommand(c), systemDisableCommand(c), systemServiceCommand(), systemStopCommand(c),
	)
	return command
}

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
		return c.verboseDf(u, time.Now())
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

// verboseDf prints docker's tables, one for each kind.
func (c *cli) verboseDf(u *node.DiskUsage, now time.Time) error {
	images := grid{headers: []string{"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTENT SIZE", "CONTAINERS"}}
	for _, img := range u.Images.Images {
		names := img.Image.References
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			repository, tag := splitName(name)
			images.rows = append(images.rows, []string{
				repository, tag, imageID(img.Image, false), since(img.Image.Created, now), size(img.Shared + img.Unique), size(img.Shared),
				size(img.Unique), size(img.Content), fmt.Sprint(len(u.ImageUsers[string(img.Image.ID)])),
			})
		}
	}
	containers := grid{headers: []string{"CONTAINER ID", "IMAGE", "COMMAND", "SIZE", "CREATED", "STATUS", "POD", "NAME"}}
	for _, ctr := range u.Containers {
		command := `"` + ellipsis(commandLine(ctr.Command), 20, false) + `"`
		containers.rows = append(containers.rows, []string{
			cut(ctr.ID, idDigits, false), ctr.Image, command, size(ctr.Size), since(ctr.Created, now), containerStatus(ctr.Container, now),
			ctr.Namespace + "/" + ctr.Pod, ctr.Name,
		})
	}
	claims := grid{headers: []string{"VOLUME NAME", "LINKS", "SIZE"}}
	for _, claim := range u.Claims {
		claims.rows = append(claims.rows, []string{claim.Namespace + "/" + claim.Name, fmt.Sprint(len(claim.Pods)), size(claim.Size)})
	}
	for i, t := range []struct {
		title string
		grid  grid
	}{{"Images space usage:", images}, {"Containers space usage:", containers}, {"Local Volumes space usage:", claims}} {
		if i > 0 {
			fmt.Fprintln(c.out)
		}
		fmt.Fprintf(c.out, "%s\n\n", t.title)
		if err := dockerTable(c.out, t.grid, true); err != nil {
			return err
		}
	}
	return nil
}
