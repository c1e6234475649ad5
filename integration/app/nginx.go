package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// By this path, so that the kernel too calls the processes nginx.
	nginxPath = "/usr/sbin/nginx"
	nginxPID  = "/var/run/nginx.pid"
	nginxRoot = "/usr/share/nginx/html"
)

// nginx has a master that keeps a worker: HUP gives it a new one, QUIT and TERM
// end both; "nginx -s quit" sends that. The worker serves the files.
func nginx(args []string) error {
	if strings.Contains(os.Args[0], "worker") {
		return nginxWorker()
	}
	f := flags("nginx")
	tell := f.String("s", "", "send a signal to the master: stop, quit, reload")
	_ = f.String("g", "", "directives, which do not matter here")
	_ = f.Parse(args)
	if *tell != "" {
		return tellNginx(*tell)
	}
	if !strings.Contains(os.Args[0], "master") {
		// As nginx does it: the processes are told apart by their titles.
		title := "nginx: master process " + strings.Join(append([]string{"nginx"}, args...), " ")
		return syscall.Exec(nginxPath, []string{title}, os.Environ())
	}
	if err := os.WriteFile(nginxPID, []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return err
	}
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT)
	for {
		worker := &exec.Cmd{
			Path: nginxPath, Args: []string{"nginx: worker process"}, Stdout: os.Stdout, Stderr: os.Stderr,
			SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
		}
		if err := worker.Start(); err != nil {
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- worker.Wait() }()
		select {
		case err := <-ended:
			return fmt.Errorf("the worker ended: %w", err)
		case s := <-got:
			_ = worker.Process.Kill()
			<-ended
			if s != syscall.SIGHUP {
				return os.Remove(nginxPID)
			}
		}
	}
}

func tellNginx(what string) error {
	s, ok := map[string]syscall.Signal{"stop": syscall.SIGTERM, "quit": syscall.SIGQUIT, "reload": syscall.SIGHUP}[what]
	if !ok {
		return fmt.Errorf("invalid option: \"-s %s\"", what)
	}
	text, err := os.ReadFile(nginxPID)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return err
	}
	return syscall.Kill(pid, s)
}

func nginxWorker() error {
	files := http.FileServer(http.Dir(nginxRoot))
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "nginx")
		if _, err := os.Stat(nginxRoot + "/index.html"); r.URL.Path == "/" && errors.Is(err, os.ErrNotExist) {
			http.Error(w, "403 Forbidden", http.StatusForbidden)
			return
		}
		files.ServeHTTP(w, r)
	})
	return (&http.Server{Addr: ":80", Handler: handler, ReadHeaderTimeout: 10 * time.Second}).ListenAndServe()
}
