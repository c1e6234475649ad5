package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
)

// redisServer knows PING, GET, SET and CONFIG GET of what its configuration
// file says, as lines of words.
func redisServer(args []string) error {
	settings := map[string]string{"maxmemory": "0", "maxmemory-policy": "noeviction"}
	if len(args) > 0 {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			settings[name] = value
		}
	}
	listener, err := net.Listen("tcp", ":6379")
	if err != nil {
		return err
	}
	fmt.Println("Ready to accept connections tcp")
	var mu sync.Mutex
	values := map[string]string{}
	accept(listener, func(c net.Conn) {
		for lines := bufio.NewScanner(c); lines.Scan(); {
			mu.Lock()
			words := append(strings.Fields(lines.Text()), "", "", "")
			answer := "ERR unknown command"
			switch strings.ToUpper(words[0]) {
			case "PING":
				answer = "PONG"
			case "SET":
				values[words[1]], answer = words[2], "OK"
			case "GET":
				answer = values[words[1]]
			case "CONFIG":
				answer = words[2] + " " + settings[words[2]]
			}
			mu.Unlock()
			_, _ = fmt.Fprintln(c, answer)
		}
	})
	return nil
}

// redisCLI asks a server on this machine one question.
func redisCLI(args []string) error {
	c, err := net.Dial("tcp", "127.0.0.1:6379")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, strings.Join(args, " ")); err != nil {
		return err
	}
	answer := bufio.NewScanner(c)
	if !answer.Scan() {
		return errors.New("no answer")
	}
	fmt.Println(answer.Text())
	return nil
}
