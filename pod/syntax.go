package pod

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// syntaxError is text that is neither YAML nor JSON.
type syntaxError struct {
	Position
	msg, mend string
}

// readDocuments returns the documents of a manifest: those before a mistake,
// and the mistake.
func readDocuments(data []byte) ([]*yaml.Node, *syntaxError) {
	var inJSON *syntaxError
	if startsAsJSON(data) {
		var documents []*yaml.Node
		if documents, inJSON = readJSON(data); inJSON == nil {
			return documents, nil
		}
	}
	documents, err := readYAML(data)
	if err == nil {
		return documents, nil
	}
	e := locate(data, err)
	// The reader that came further knew better what it was reading.
	if inJSON != nil && (inJSON.Line > e.Line || inJSON.Line == e.Line && inJSON.Column > e.Column) {
		e = inJSON
	}
	return documents, e
}

func readYAML(data []byte) ([]*yaml.Node, error) {
	var documents []*yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var n yaml.Node
		err := d.Decode(&n)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return documents, err
		}
		if len(n.Content) == 1 {
			documents = append(documents, n.Content[0])
		}
	}
}

// maxSearch is how many bytes are read again, in all, to find the line of a
// mistake. Each line above the end of the text costs one more reading.
const maxSearch = 4 << 20

// locate turns what the YAML library says into a place. It names a line at
// best, often that of the construct around the mistake. But it stops at the
// first mistake: the one on line n is in what it says of the first n lines,
// and not in what it says of the n-1 before.
func locate(data []byte, err error) *syntaxError {
	e := new(syntaxError)
	e.Line, e.msg = splitLine(err)
	lines := bytes.SplitAfter(data, []byte("\n"))
	end, budget := len(data), maxSearch
	for n := len(lines); n > 0; n-- {
		end -= len(lines[n-1])
		if budget -= end; budget < 0 {
			break // the library's line will do
		}
		_, before := readYAML(data[:end])
		if before != nil {
			if _, msg := splitLine(before); msg == e.msg {
				continue
			}
		}
		if e.msg != "did not find expected node content" { // which is said of what ends too early, too
			e.Line = n
		}
		break
	}
	e.Line = min(max(e.Line, 1), len(lines))
	line := string(lines[e.Line-1])
	indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	column := len(indent)
	switch {
	case strings.Contains(indent, "\t"):
		column = strings.IndexByte(indent, '\t')
		e.mend = "YAML takes spaces for indentation, not tabs"
	case strings.HasPrefix(e.msg, "unknown anchor '"):
		name := strings.Split(e.msg, "'")[1]
		column = max(strings.Index(line, "*"+name), 0)
		e.msg, e.mend = "*"+name+" refers to no anchor", "write &"+name+" before the value it stands for"
	case strings.HasPrefix(e.msg, "mapping values"):
		e.mend = `put a value that has ": " in it in quotes`
	}
	e.Column = utf8.RuneCountInString(line[:column]) + 1
	return e
}

// splitLine takes the line that the YAML library names, 0 if it does not, from
// what it says.
func splitLine(err error) (line int, msg string) {
	msg = strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		if number, text, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(number); err == nil {
				if strings.HasPrefix(text, "did not find") {
					n++ // the parser, unlike the scanner, counts from 0
				}
				return n, text
			}
		}
	}
	return 0, msg
}
