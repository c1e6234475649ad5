package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// serveGRPC answers health checks by gRPC's own server. It prints a line for
// each. A service that it does not have is unknown; SIGUSR1 makes all of them
// NOT_SERVING and SIGUSR2 serves again.
func serveGRPC(args []string) error {
	f := flags("grpc-health")
	port := f.Int("port", 2379, "port to listen on")
	services := f.String("service", "", "services that are healthy beside the server itself, separated by commas")
	healthyFor := f.Duration("healthy-for", 0, "NOT_SERVING afterwards; 0: never")
	slow := f.Duration("slow", 0, "answer that much later")
	_ = f.Parse(args)

	checker := health.NewServer() // the server itself, service "", is healthy
	all := []string{""}
	if *services != "" {
		all = append(all, strings.Split(*services, ",")...)
	}
	set := func(status healthpb.HealthCheckResponse_ServingStatus) {
		for _, service := range all {
			checker.SetServingStatus(service, status)
		}
	}
	set(healthpb.HealthCheckResponse_SERVING)
	if *healthyFor > 0 {
		time.AfterFunc(*healthyFor, func() { set(healthpb.HealthCheckResponse_NOT_SERVING) })
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for s := range told {
			if s == syscall.SIGUSR1 {
				set(healthpb.HealthCheckResponse_NOT_SERVING)
			} else {
				set(healthpb.HealthCheckResponse_SERVING)
			}
		}
	}()
	log := func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		time.Sleep(*slow)
		from, _ := metadata.FromIncomingContext(ctx)
		answer, err := next(ctx, request)
		if check, ok := request.(*healthpb.HealthCheckRequest); ok {
			fmt.Printf("check of %q from %s: %v %v\n", check.Service, strings.Join(from["user-agent"], ""), answer, err)
		}
		return answer, err
	}
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", *port))
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(log))
	healthpb.RegisterHealthServer(server, checker)
	fmt.Printf("serving on %v\n", listener.Addr())
	return server.Serve(listener)
}
