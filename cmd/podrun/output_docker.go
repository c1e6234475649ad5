package main

import (
	"fmt"
	"strings"
	"time"

	"get.podrun.dev/podrun/node"
)

// idDigits is how many digits of an id docker shows.
const idDigits = 12

// containerTable is "podrun ps": docker's columns, and the pod.
func containerTable(list []node.Container, whole bool, now time.Time) grid {
	t := grid{headers: []string{"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "POD", "NAME"}}
	for _, c := range list {
		command := `"` + ellipsis(commandLine(c.Command), 20, whole) + `"`
		t.rows = append(t.rows, []string{
			cut(c.ID, idDigits, whole), c.Image, command, since(c.Created, now), containerStatus(c, now), podOf(c), c.Name,
		})
	}
	return t
}

// commandLine joins a command as docker does: what has a space in it is quoted.
func commandLine(args []string) string {
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = arg
		if strings.Contains(arg, " ") {
			words[i] = "'" + arg + "'"
		}
	}
	return strings.Join(words, " ")
}

// podOf is the pod of a container, with its namespace unless that is the
// default.
func podOf(c node.Container) string {
	if c.Namespace == "default" {
		return c.Pod
	}
	return c.Namespace + "/" + c.Pod
}

func containerStatus(c node.Container, now time.Time) string {
	switch c.State {
	case "running":
		return "Up " + human(now.Sub(c.StartedAt))
	case "exited":
		return fmt.Sprintf("Exited (%d) %s", c.ExitCode, since(c.FinishedAt, now))
	}
	return "Created"
}

// splitName is a whole image name as docker shows it: docker.io and library
// left out.
func splitName(name string) (repository, tag string) {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
	name, _, _ = strings.Cut(name, "@")
	slash := strings.LastIndexByte(name, '/')
	if colon := strings.LastIndexByte(name, ':'); colon > slash {
		return name[:colon], name[colon+1:]
	}
	return orNone(name), none
}

func cut(id string, n int, whole bool) string {
	if whole || len(id) <= n {
		return id
	}
	return id[:n]
}

// ellipsis cuts s to n characters, the last a sign that there is more.
func ellipsis(s string, n int, whole bool) string {
	s = strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(s)
	r := []rune(s)
	if whole || len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// since is how long ago t was, in docker's words.
func since(t, now time.Time) string {
	if t.IsZero() || t.Unix() <= 0 {
		return "N/A"
	}
	return human(now.Sub(t)) + " ago"
}

// human is a duration in docker's words.
func human(d time.Duration) string {
	switch s := int(d.Seconds()); {
	case s < 1:
		return "Less than a second"
	case s == 1:
		return "1 second"
	case s < 60:
		return fmt.Sprintf("%d seconds", s)
	}
	switch m := int(d.Minutes()); {
	case m == 1:
		return "About a minute"
	case m < 60:
		return fmt.Sprintf("%d minutes", m)
	}
	h := int(d.Hours() + 0.5)
	switch {
	case h == 1:
		return "About an hour"
	case h < 48:
		return fmt.Sprintf("%d hours", h)
	case h < 24*7*2:
		return fmt.Sprintf("%d days", h/24)
	case h < 24*30*2:
		return fmt.Sprintf("%d weeks", h/24/7)
	case h < 24*365*2:
		return fmt.Sprintf("%d months", h/24/30)
	}
	return fmt.Sprintf("%d years", h/24/365)
}

// size is bytes in docker's decimal units.
func size(n int64) string {
	f, unit := float64(n), 0
	units := []string{"B", "kB", "MB", "GB", "TB"}
	for f >= 1000 && unit < len(units)-1 {
		f /= 1000
		unit++
	}
	return fmt.Sprintf("%.3g%s", f, units[unit])
}
