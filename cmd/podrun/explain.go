package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/pod"
)

// explainTypes is what k8s.io/api says of the types of the kinds, a typeDoc on
// each line. It is text and not asked of the packages: their maps of
// documentation would be made at every start of podrun.
//
//go:generate go test -run TestExplainTypes -update .
//go:embed explain.jsonl
var explainTypes string

// typeDoc is the documentation of one type.
type typeDoc struct {
	Name   string     `json:"name"`
	Doc    string     `json:"doc,omitempty"`
	Fields []fieldDoc `json:"fields,omitempty"` // by name
}

type fieldDoc struct {
	Name     string `json:"name"`
	Type     string `json:"type"` // as kubectl shows it: []Container
	Of       string `json:"of,omitempty"`
	Required bool   `json:"required,omitempty"`
	Doc      string `json:"doc,omitempty"`
}

// findType returns the documentation of a type, nil for one that has no fields.
func findType(name string) (*typeDoc, error) {
	if name == "" {
		return nil, nil
	}
	begin := fmt.Sprintf(`{"name":%q,`, name)
	for line := range strings.Lines(explainTypes) {
		if strings.HasPrefix(line, begin) {
			t := new(typeDoc)
			return t, json.Unmarshal([]byte(line), t)
		}
	}
	return nil, nil
}

func explainCommand(c *cli) *cobra.Command {
	var recursive bool
	var apiVersion, output string
	command := &cobra.Command{
		Use:   "explain TYPE[.FIELD...] [--recursive]",
		Short: "Tell what the fields of a type mean",
		Long: `Tell what the fields of a type mean, in the words of Kubernetes' own documentation, and of a field that
podrun refuses or that has no effect, why.`,
		Example: `  podrun explain pod
  podrun explain pod.spec.containers.livenessProbe
  podrun explain configmap --recursive`,
		ValidArgsFunction: completeExplain,
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return plainf("You must specify the type of resource to explain. podrun knows pods, configmaps, secrets, persistentvolumeclaims, namespaces and events")
			case len(args) > 1:
				return plainf("We accept only this format: explain RESOURCE")
			case output != "plaintext":
				return plainf("unrecognized format: %s", output)
			}
			typeName, rest, _ := strings.Cut(args[0], ".")
			k, err := kindOf(typeName)
			if err != nil {
				return err
			}
			if apiVersion != "" && apiVersion != "v1" {
				return plainf("couldn't find resource for %q", apiVersion+", Resource="+k.Resource)
			}
			var path []string
			if rest != "" {
				path = strings.Split(rest, ".")
			}
			return explain(c.out, k, path, recursive)
		},
	}
	f := command.Flags()
	f.BoolVar(&recursive, "recursive", false, "the names of all fields below, too")
	f.StringVar(&apiVersion, "api-version", "", "the version of the type: v1")
	f.StringVarP(&output, "output", "o", "plaintext", "output format: plaintext")
	return command
}

// walkDoc follows path from a kind; field is the last of it, nil for none, and
// t its type, nil for one without fields.
func walkDoc(k *kind, path []string) (t *typeDoc, field *fieldDoc, err error) {
	if t, err = findType(k.Name); err != nil {
		return nil, nil, err
	}
	for _, name := range path {
		field = nil
		for i := range t.fields() {
			if t.Fields[i].Name == name {
				field = &t.Fields[i]
			}
		}
		if field == nil {
			return nil, nil, plainf("field %q does not exist", name)
		}
		if t, err = findType(field.Of); err != nil {
			return nil, nil, err
		}
	}
	return t, field, nil
}

func (t *typeDoc) fields() []fieldDoc {
	if t == nil {
		return nil
	}
	return t.Fields
}

// explain prints in kubectl's layout.
func explain(out io.Writer, k *kind, path []string, recursive bool) error {
	t, field, err := walkDoc(k, path)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "KIND:       %s\nVERSION:    v1\n\n", k.Name)
	doc := ""
	if field != nil {
		fmt.Fprintf(&b, "FIELD: %s <%s>\n\n\n", field.Name, field.Type)
		if doc = field.Doc; doc != "" {
			doc += "\n"
		}
	}
	if t != nil && t.Doc != "" {
		doc += t.Doc + "\n"
	}
	if doc == "" {
		doc = "<empty>"
	}
	fmt.Fprintf(&b, "DESCRIPTION:\n%s\n", indented(doc, 76, 4))
	if k == podKind && field != nil {
		if s, note, ok := pod.SupportOf(strings.Join(path, ".")); ok && (s != pod.Supported || note != "") {
			if note != "" {
				note = ": " + note
			}
			fmt.Fprintf(&b, "PODRUN:\n%s\n\n", indented(s.String()+note, 76, 4))
		}
	}
	if len(t.fields()) > 0 {
		b.WriteString("FIELDS:\n")
		if err := explainFields(&b, t, recursive, 1); err != nil {
			return err
		}
	}
	b.WriteString("\n")
	_, err = io.WriteString(out, b.String())
	return err
}

func explainFields(b *strings.Builder, t *typeDoc, recursive bool, level int) error {
	for _, f := range t.fields() {
		fmt.Fprintf(b, "%s%s\t<%s>", strings.Repeat("  ", level), f.Name, f.Type)
		if f.Required {
			b.WriteString(" -required-")
		}
		b.WriteString("\n")
		if !recursive {
			doc := f.Doc
			if doc == "" {
				doc = "<no description>"
			}
			fmt.Fprintf(b, "%s\n\n", indented(doc, 76, 4))
			continue
		}
		below, err := findType(f.Of)
		if err == nil && below != nil {
			err = explainFields(b, below, true, level+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// indented wraps each line of text at width, between words, and indents it.
func indented(text string, width, indent int) string {
	margin := strings.Repeat(" ", indent)
	var lines []string
	for paragraph := range strings.SplitSeq(text, "\n") {
		line := ""
		for word := range strings.FieldsSeq(paragraph) {
			if line != "" && len(line)+1+len(word) > width {
				lines = append(lines, margin+line)
				line = ""
			}
			if line != "" {
				line += " "
			}
			line += word
		}
		lines = append(lines, margin+line)
	}
	return strings.Join(lines, "\n")
}

// completeExplain completes the path of a field by one part.
func completeExplain(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	parts := strings.Split(prefix, ".")
	if len(parts) == 1 {
		for _, k := range kinds {
			names = append(names, k.names[0])
		}
		return names, directive
	}
	k, err := kindOf(parts[0])
	if err != nil {
		return nil, directive
	}
	t, _, err := walkDoc(k, parts[1:len(parts)-1])
	if err != nil {
		return nil, directive
	}
	for _, f := range t.fields() {
		names = append(names, strings.Join(append(parts[:len(parts)-1:len(parts)-1], f.Name), "."))
	}
	return names, directive
}
