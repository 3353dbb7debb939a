// driver-peer is a CSI driver reduced to its Identity service, made of grpc-go as most drivers are.
//
// It reads how to behave, one JSON object after another, from stdin, and acknowledges each with a line on stdout.
// SIGTERM is a graceful stop: GOAWAY at once, and the end when the calls in flight have been answered.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type behaviour struct {
	Ready         *bool      // what Probe says; null for nothing
	Millis        int        // how long each call takes; the caller's deadline does not cut it short
	Code          codes.Code // how each call ends
	Message       string
	VendorBytes   int // the length of the vendor version
	MetadataBytes int // the length of a header before, and of another one after each answer
}

type driver struct {
	csi.UnimplementedIdentityServer
	behaviour atomic.Pointer[behaviour]
}

func (d *driver) GetPluginInfo(
	ctx context.Context, _ *csi.GetPluginInfoRequest,
) (*csi.GetPluginInfoResponse, error) {
	b := d.behaviour.Load()
	answer := &csi.GetPluginInfoResponse{
		Name: "csi.go.example.com", VendorVersion: strings.Repeat("v", b.VendorBytes),
	}
	return answer, b.run(ctx)
}

func (d *driver) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	b := d.behaviour.Load()
	answer := &csi.ProbeResponse{}
	if b.Ready != nil {
		answer.Ready = wrapperspb.Bool(*b.Ready)
	}
	return answer, b.run(ctx)
}

func (b *behaviour) run(ctx context.Context) error {
	long := metadata.Pairs("x-long", strings.Repeat("m", b.MetadataBytes))
	if err := grpc.SetHeader(ctx, long); err != nil {
		return err
	}
	if err := grpc.SetTrailer(ctx, long); err != nil {
		return err
	}
	time.Sleep(time.Duration(b.Millis) * time.Millisecond)
	return status.Error(b.Code, b.Message)
}

func main() {
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	d, server := &driver{}, grpc.NewServer()
	d.behaviour.Store(&behaviour{})
	csi.RegisterIdentityServer(server, d)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		server.GracefulStop()
	}()
	go func() {
		for orders := json.NewDecoder(os.Stdin); ; {
			b := &behaviour{}
			if err := orders.Decode(b); err != nil {
				return
			}
			d.behaviour.Store(b)
			fmt.Println("so be it")
		}
	}()
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
	// Serve returns as soon as nobody is listened to any more; this waits for the calls in flight.
	server.GracefulStop()
}
