package image

import (
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Platform is what an image is built for.
type Platform struct {
	OS, Architecture, Variant string
}

func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// architectures are those that linux images are made for, by the names of
// https://github.com/opencontainers/image-spec/blob/main/config.md#properties,
// which are Go's.
var architectures = []string{
	"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x",
}

var platformPart = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// ParsePlatform reads os/architecture[/variant]; an architecture alone is
// linux's.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) == 1 {
		parts = []string{"linux", s}
	}
	if len(parts) > 3 || slices.ContainsFunc(parts, func(p string) bool { return !platformPart.MatchString(p) }) {
		return Platform{}, fmt.Errorf("platform %q is not os/architecture[/variant], such as linux/arm64/v8", s)
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	if p = p.normal(); p.OS != "linux" {
		return Platform{}, fmt.Errorf("platform %q: podrun runs linux images only", s)
	}
	if !slices.Contains(architectures, p.Architecture) {
		return Platform{}, fmt.Errorf("platform %q: unknown architecture %q; there are %s", s, p.Architecture, strings.Join(architectures, ", "))
	}
	return p, nil
}

// thisPlatform is that of the machine.
func thisPlatform() Platform {
	return Platform{OS: "linux", Architecture: runtime.GOARCH}.normal()
}

// normal gives each platform its one name: what a missing variant stands for is
// that of https://github.com/containerd/platforms, which all follow.
func (p Platform) normal() Platform {
	p.OS, p.Architecture, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "i386", "i686":
		p.Architecture, p.Variant = "386", ""
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	if n, err := strconv.Atoi(p.Variant); err == nil && p.Architecture != "386" {
		p.Variant = "v" + strconv.Itoa(n)
	}
	switch {
	case p.Architecture == "amd64" && p.Variant == "v1", p.Architecture == "arm64" && p.Variant == "v8":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

// accepted are the platforms whose images p can run, the best first. Another
// architecture is not among them even where the processor has it: the seccomp
// profile of a container refuses the calls of 32-bit programs.
func (p Platform) accepted() []Platform {
	p = p.normal()
	list := []Platform{p}
	oldest := map[string]int{"amd64": 1, "arm64": 8, "arm": 5}[p.Architecture]
	n, err := strconv.Atoi(strings.TrimPrefix(p.Variant, "v"))
	if oldest == 0 || err != nil {
		return list
	}
	for n--; n >= oldest; n-- {
		list = append(list, Platform{OS: p.OS, Architecture: p.Architecture, Variant: "v" + strconv.Itoa(n)}.normal())
	}
	return list
}

// suits tells whether p can run an image for has. What an image does not say
// is not held against it.
func (p Platform) suits(has Platform) bool {
	return has.Architecture == "" || slices.Contains(p.accepted(), has.normal())
}
