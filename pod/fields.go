package pod

import (
	"fmt"
	"strings"
	"sync"
)

//go:generate go test -run TestFieldsPage -update .

// Support says what podrun does with a field of a manifest.
type Support int

// The kinds of support.
const (
	Supported Support = iota // does what Kubernetes says
	NoEffect                 // accepted; it has no effect on one node
	ReadOnly                 // set by podrun; what a manifest says is passed over, as the API server does
	Refused                  // the manifest is refused
)

// String is the word of docs/fields.md.
func (s Support) String() string {
	return [...]string{"supported", "no effect", "read-only", "refused"}[s]
}

// A section is a part of the table of fields, with a heading in
// docs/fields.md. at begins each of its paths.
type section struct {
	title string
	at    string
	rules []rule
}

// A rule says what becomes of fields of Pod. Paths are written without
// indexes, and together where they share words, by the braces of a shell:
// "ports.{name,hostPort}" is ports.name and ports.hostPort.
//
// A path that ends in ".*" stands for all fields below it, those included
// that a later Kubernetes adds; it is not for Supported fields, each of which
// is written out. A list of resources has a path for each kind of resource.
type rule struct {
	support Support
	paths   string
	note    string // why not, and the mend where there is one; of a supported field, what is worth knowing
}

// sections is the table of all fields. It is data and not made at run time:
// podrun's binary is every container's init as well.
var sections = []*section{
	&metadataFields, &podFields, &networkFields, &schedulingFields, &podSecurityFields, &containerFields, &envFields, &mountFields,
	&probeFields, &hookFields, &securityFields, &volumeFields, &projectedFields, &otherVolumeFields, &statusFields,
}

// rulesByPath is the table by path, made when it is first asked for.
var rulesByPath = sync.OnceValue(func() map[string]*rule {
	rules := map[string]*rule{}
	for _, s := range sections {
		for i := range s.rules {
			for _, path := range expand(s.at + s.rules[i].paths) {
				rules[path] = &s.rules[i]
			}
		}
	}
	return rules
})

// ruleFor returns the rule of a leaf field, or of all that is below a path.
func ruleFor(path string) *rule {
	rules := rulesByPath()
	if r, ok := rules[path]; ok {
		return r
	}
	for path != "" {
		if r, ok := rules[path+".*"]; ok {
			return r
		}
		path = path[:max(strings.LastIndexByte(path, '.'), 0)]
	}
	return nil
}

// SupportOf returns what podrun does with a field, by its path without
// indexes, and what there is to say about it. Of a field that has fields of
// its own it knows only when they all have one rule.
func SupportOf(path string) (s Support, note string, ok bool) {
	if r := ruleFor(path); r != nil {
		return r.support, r.note, true
	}
	return 0, "", false
}

// expand returns the words that a pattern with braces stands for.
func expand(pattern string) []string {
	open := strings.IndexByte(pattern, '{')
	if open < 0 {
		return []string{pattern}
	}
	var heads, out []string
	depth, from := 0, open+1
	for i := open; i < len(pattern); i++ {
		switch pattern[i] {
		case '{':
			depth++
		case '}':
			depth--
		}
		if depth == 0 || depth == 1 && pattern[i] == ',' {
			for _, word := range expand(pattern[from:i]) {
				heads = append(heads, pattern[:open]+word)
			}
			from = i + 1
		}
		if depth == 0 {
			for _, tail := range expand(pattern[i+1:]) {
				for _, head := range heads {
					out = append(out, head+tail)
				}
			}
			return out
		}
	}
	panic(fmt.Sprintf("internal error: braces of %q", pattern))
}
