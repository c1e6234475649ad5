package vm

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"get.podrun.dev/podrun/integration/registry"
)

// bootPatience bounds a boot: two minutes where the processor is emulated and
// nobody else wants the host's.
const bootPatience = 15 * time.Minute

// machine is the one that all tests share, in the order they are written in.
var machine *Machine

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	image, payload := os.Getenv("PODRUN_VM_IMAGE"), os.Getenv("PODRUN_VM_PAYLOAD")
	if image == "" || payload == "" {
		return 0, fmt.Errorf(`no image or nothing to put into it; "make vm-test" runs these tests`)
	}
	// The machine ends with the thread that started it.
	runtime.LockOSThread()
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	begin := time.Now()
	if machine, err = Start(dir, image, payload); err != nil {
		return 0, err
	}
	defer machine.Stop()
	defer machine.HangUp()
	ctx, cancel := context.WithTimeout(context.Background(), bootPatience)
	defer cancel()
	if _, err := machine.Await(ctx); err != nil {
		return 0, fmt.Errorf("the machine cannot be logged in to: %w; its console:\n%s", err, machine.Console())
	}
	fmt.Printf("booted in %v\n", time.Since(begin).Round(time.Second))
	// What integration tests and commands are run with: podrun in everybody's
	// path, the rest as scripts/vm.sh has packed it.
	out, err := machine.Command(ctx, Root, "mkdir /opt/podrun && tar -xf /dev/vdb -C /opt/podrun && ln -s /opt/podrun/bin/podrun /usr/local/bin/").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("unpack in the machine: %w: %s", err, out)
	}
	if err := load(ctx); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// busybox is the image of pods that no registry is needed for.
const busybox = "podrun.test/busybox:1"

// load gives it to the user's podrun and to root's.
func load(ctx context.Context) error {
	image, err := registry.Busybox()
	if err != nil {
		return err
	}
	tag, err := name.NewTag(busybox)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, image, &archive); err != nil {
		return err
	}
	for _, user := range []string{User, Root} {
		command := machine.Command(ctx, user, "podrun load")
		command.Stdin = bytes.NewReader(archive.Bytes())
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("podrun load in the machine as %s: %w: %s", user, err, out)
		}
	}
	return nil
}

// in runs a shell command in the machine and returns its output, which must
// come with exit code 0.
func in(t *testing.T, user, script string) string {
	t.Helper()
	out, code := try(t, user, script)
	if code != 0 {
		t.Fatalf("%s: %s\nexit %d: %s", user, script, code, out)
	}
	return out
}

// try runs a shell command in the machine and returns its output of both kinds
// and its exit code.
func try(t *testing.T, user, script string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	begin := time.Now()
	command := machine.Command(ctx, user, script)
	out, err := command.CombinedOutput()
	if command.ProcessState == nil {
		t.Fatalf("%s: %s: %v", user, script, err)
	}
	t.Logf("%s: %s: exit %d after %v", user, script, command.ProcessState.ExitCode(), time.Since(begin).Round(100*time.Millisecond))
	return string(out), command.ProcessState.ExitCode()
}

// await runs a shell command until its output has a match of pattern, and
// returns that with its groups.
func await(t *testing.T, user, script, pattern string) []string {
	t.Helper()
	want := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(500 * time.Millisecond) {
		out, _ := try(t, user, script)
		if m := want.FindStringSubmatch(out); m != nil {
			return m
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s\ngot  %s\nwant a match of %s", user, script, out, pattern)
		}
	}
}

// mustMatch fails unless text has a match of pattern, whose groups it returns.
func mustMatch(t *testing.T, text, pattern string) []string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("got  %s\nwant a match of %s", text, pattern)
	}
	return m
}

// inSuite is the beginning of a command that runs the integration suite in the
// machine. Images that only tests of published manifests want cost a minute.
const inSuite = `cd /opt/podrun/src/integration && export PODRUN_BIN=/opt/podrun/bin/podrun PODRUN_REGISTRY=/opt/podrun/bin/registry \
	PODRUN_TEST_IMAGES=/opt/podrun/bin/image PODRUN_TEST_KNOWN=%s PODRUN_TEST_PATIENCE=10m PODRUN_TEST_DELEGATED=yes && exec /opt/podrun/integration.test `

// suite runs tests of the integration suite in the machine, and passes each on
// as a subtest.
func suite(t *testing.T, user, known string, tests ...string) {
	t.Helper()
	command := machine.Command(t.Context(), user, fmt.Sprintf(inSuite+"-test.v -test.timeout=4h -test.parallel=2 -test.run='^(%s)$'", known, strings.Join(tests, "|")))
	var all bytes.Buffer
	reader, writer := io.Pipe()
	command.Stdout, command.Stderr = writer, writer
	ended := make(chan error, 1)
	go func() {
		err := command.Run()
		_ = writer.Close()
		ended <- err
	}()
	verdict := regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (\S+) (.*)`)
	passed := map[string]bool{}
	lines := bufio.NewScanner(io.TeeReader(reader, &all))
	for lines.Buffer(nil, 1<<24); lines.Scan(); {
		m := verdict.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		passed[m[2]] = m[1] == "PASS"
		fmt.Printf("    %s: %s %s %s\n", user, m[1], m[2], m[3])
	}
	err := <-ended
	for _, test := range tests {
		t.Run(test, func(t *testing.T) {
			if !passed[test] {
				t.Error("it has not passed in the machine")
			}
		})
	}
	if err != nil {
		t.Errorf("%v\n%s", err, all.Bytes())
	}
}

// TestSuite runs what of the integration suite CI's own machine cannot show, as
// the user who has logged in; or what PODRUN_VM_TESTS, a regular expression,
// asks for.
func TestSuite(t *testing.T) {
	if wanted := os.Getenv("PODRUN_VM_TESTS"); wanted != "" {
		list := regexp.MustCompile(`(?m)^Test\w+$`).FindAllString(in(t, User, fmt.Sprintf(inSuite+"-test.list '%s'", "no", wanted)), -1)
		suite(t, User, "yes", list...)
		return
	}
	suite(t, User, "no", "TestSession", "TestLimits", "TestCgroupTree", "TestThrottled", "TestOOMKilled", "TestOOMKilledBesideMain", "TestResourcesOfPod", "TestOOMScore", "TestTop")
}

// TestSuiteAsRoot does it for root, who has the machine's own systemd to ask.
func TestSuiteAsRoot(t *testing.T) {
	suite(t, Root, "no", "TestLimits", "TestOOMKilled")
}
