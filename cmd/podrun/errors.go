package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/internal/hint"
)

// The exit codes that are not a program's own.
const (
	exitFailed      = 1
	exitUsage       = 2 // of the verbs that kubectl does not have; kubectl's is 1
	exitInterrupted = 130
)

// usageError says that the command was used wrongly.
type usageError struct {
	message string
	noHelp  bool // the message says all: do not point to --help
}

func (e *usageError) Error() string { return e.message }

func usagef(format string, args ...any) error {
	return &usageError{message: fmt.Sprintf(format, args...)}
}

// plainError is an error in kubectl's own words, printed after "error: ".
type plainError string

func (e plainError) Error() string { return string(e) }

func plainf(format string, args ...any) error { return plainError(fmt.Sprintf(format, args...)) }

// manifestError holds complaints about manifests: lines that begin with file,
// line and column and are printed as they are.
type manifestError struct{ error }

// exitCode ends podrun with a code; all there is to say was said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// errorList holds the errors of several objects, each of which gets its line.
type errorList []error

func (l errorList) Error() string { return errors.Join(l...).Error() }

// Unwrap makes errors.As find what is in the list.
func (l errorList) Unwrap() []error { return l }

// err is the list as an error: nil when it is empty.
func (l errorList) err() error {
	switch len(l) {
	case 0:
		return nil
	case 1:
		return l[0]
	}
	return l
}

// report prints err as command's users expect it and returns the exit code.
func (c *cli) report(ctx context.Context, command *cobra.Command, err error) int {
	if err == nil {
		return 0
	}
	var list errorList
	var code exitCode
	var usage *usageError
	switch {
	case errors.As(err, &code):
		return int(code)
	case ctx.Err() != nil:
		return exitInterrupted
	case !errors.As(err, &list):
		list = errorList{err}
	}
	kubectl := groupOf(command) == groupKubectl
	for _, e := range list {
		fmt.Fprintln(c.err, errorLine(e, kubectl))
	}
	if !errors.As(err, &usage) {
		return exitFailed
	}
	if !usage.noHelp {
		fmt.Fprintf(c.err, "See '%s --help' for usage.\n", command.CommandPath())
	}
	if kubectl {
		return exitFailed
	}
	return exitUsage
}

// groupOf is the group of a verb, also for one that is below another.
func groupOf(command *cobra.Command) string {
	for command.GroupID == "" && command.HasParent() {
		command = command.Parent()
	}
	return command.GroupID
}

// errorLine is what a user sees of err.
func errorLine(err error, kubectl bool) string {
	return control.Replace(errorText(err, kubectl))
}

func errorText(err error, kubectl bool) string {
	var manifest manifestError
	var usage *usageError
	var plain plainError
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &manifest):
		return manifest.Error()
	case kubectl && (errors.As(err, &usage) || errors.As(err, &plain)):
		return "error: " + err.Error()
	case kubectl && errors.As(err, &status):
		return statusLine(err, status.Status()) + mendOf(err)
	}
	// Joined errors are one story: cleanup that failed beside the first.
	return "podrun: " + strings.ReplaceAll(err.Error(), "\n", "; ") + mendOf(err)
}

func mendOf(err error) string {
	if mend := hint.Of(err); mend != "" {
		return "; " + mend
	}
	return ""
}

// statusLine is a node's answer in kubectl's words.
func statusLine(err error, s metav1.Status) string {
	if s.Reason == metav1.StatusReasonInvalid && s.Details != nil && len(s.Details.Causes) > 0 {
		head := "The request is invalid: "
		if s.Details.Kind != "" || s.Details.Name != "" {
			head = fmt.Sprintf("The %s %q is invalid: ", s.Details.Kind, s.Details.Name)
		}
		var causes []string
		for _, cause := range s.Details.Causes {
			causes = append(causes, cause.Field+": "+cause.Message)
		}
		if len(causes) == 1 {
			return head + causes[0]
		}
		return head + "\n* " + strings.Join(causes, "\n* ")
	}
	if s.Reason == "" {
		return "Error from server: " + err.Error()
	}
	return fmt.Sprintf("Error from server (%s): %s", s.Reason, err.Error())
}

// unknownCommand names the verbs that name may have meant: what says so of
// itself, else those of that name below another, else the nearest.
func unknownCommand(root *cobra.Command, name string) error {
	if root.SuggestionsMinimumDistance <= 0 {
		root.SuggestionsMinimumDistance = 2
	}
	var meant, below []string
	for _, command := range root.Commands() {
		if slices.Contains(command.SuggestFor, name) {
			meant = append(meant, command.Name())
		}
		for _, sub := range command.Commands() {
			if sub.Name() == name {
				below = append(below, command.Name()+" "+name)
			}
		}
	}
	if len(meant) == 0 {
		meant = below
	}
	if near := root.SuggestionsFor(name); len(meant) == 0 && len(near) > 0 {
		meant = near[:1]
	}
	message := fmt.Sprintf("unknown command %q", name)
	if len(meant) == 0 {
		return &usageError{message: message}
	}
	for i := range meant {
		meant[i] = strconv.Quote(meant[i])
	}
	return &usageError{message: fmt.Sprintf("%s; did you mean %s?", message, strings.Join(meant, " or ")), noHelp: true}
}
