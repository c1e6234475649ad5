package main

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var signalNames = map[syscall.Signal]string{
	syscall.SIGHUP: "HUP", syscall.SIGINT: "INT", syscall.SIGQUIT: "QUIT", syscall.SIGUSR1: "USR1",
	syscall.SIGUSR2: "USR2", syscall.SIGTERM: "TERM", syscall.SIGWINCH: "WINCH", syscall.SIGCONT: "CONT",
}

// handleSignals prints the signals that it gets, by name without SIG, and ends
// with 128 and the number of the first that is neither ignored nor harmless by
// default, as a shell would say it.
func handleSignals(args []string) error {
	f := flags("signals")
	ignore := f.String("ignore", "", "go on after these, names separated by commas; all: whatever it is")
	linger := f.Duration("linger", 0, "end that much later")
	code := f.Int("exit", -1, "end with this code")
	_ = f.Parse(args)
	ignored := append(strings.Split(*ignore, ","), "WINCH", "CONT")

	got := make(chan os.Signal, 10)
	var all []os.Signal
	for s := range signalNames {
		all = append(all, s)
	}
	signal.Notify(got, all...)
	fmt.Println("waiting")
	for s := range got {
		number := s.(syscall.Signal)
		fmt.Println("got", signalNames[number])
		if *ignore == "all" || slices.Contains(ignored, signalNames[number]) {
			continue
		}
		time.Sleep(*linger)
		if *code >= 0 {
			os.Exit(*code)
		}
		os.Exit(128 + int(number))
	}
	return nil
}

// printenv prints the values of variables; Debian's busybox cannot.
func printenv(names []string) error {
	var missing error
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			fmt.Println(value)
		} else {
			missing = fmt.Errorf("no %s", name)
		}
	}
	return missing
}

// eatMemory writes to as many bytes as it is told, and sleeps.
func eatMemory(args []string) error {
	f := flags("eat-memory")
	size := f.String("bytes", "250M", "how many; K, M and G are powers of 1024")
	_ = f.Parse(args)
	n, err := parseBytes(*size)
	if err != nil {
		return err
	}
	eaten := eat(n)
	fmt.Printf("ate %d bytes\n", len(eaten))
	for {
		time.Sleep(time.Hour)
		eaten[0]++
	}
}

func eat(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += os.Getpagesize() {
		b[i] = 1
	}
	return b
}

func parseBytes(s string) (int, error) {
	shift := 0
	if i := strings.IndexByte("KMG", s[max(0, len(s)-1)]); i >= 0 {
		shift, s = 10*(i+1), s[:len(s)-1]
	}
	n, err := strconv.Atoi(s)
	return n << shift, err
}
