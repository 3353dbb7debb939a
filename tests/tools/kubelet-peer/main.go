// kubelet-peer plays kubelet's part against a registration socket, with kubelet's own client: grpc-go and the
// API package that kubelet is built with, dialled as kubelet dials.
//
// It reads orders, one JSON object after another, from stdin, and says in one line of JSON what came of each.
package main

import (
	"context"
	"encoding/json"
	"log"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// order is what to do: "dial", "info" (Calls at a time), "notify" or "wait".
type order struct {
	Do         string
	Calls      int
	Registered bool
	Error      string
	Millis     int // the call's deadline, or how long to wait
}

// outcome has one code and message for each call, and the connection as it is after them.
type outcome struct {
	Codes    []string                 `json:"codes"`
	Messages []string                 `json:"messages"`
	Info     *registration.PluginInfo `json:"info"`
	Dials    int64                    `json:"dials"`
	State    string                   `json:"state"`
}

type peer struct {
	socket string
	dials  atomic.Int64
	conn   *grpc.ClientConn
}

func main() {
	p := peer{socket: os.Args[1]}
	orders, outcomes := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if orders.Decode(&o) != nil {
			return
		}
		if err := outcomes.Encode(p.obey(o)); err != nil {
			log.Fatal(err)
		}
	}
}

func (p *peer) obey(o order) outcome {
	limit := time.Duration(o.Millis) * time.Millisecond
	var result outcome
	switch o.Do {
	case "dial":
		result.add(p.dial(limit))
	case "info":
		result.Info = p.infos(o.Calls, limit, &result)
	case "notify":
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		verdict := &registration.RegistrationStatus{PluginRegistered: o.Registered, Error: o.Error}
		_, err := registration.NewRegistrationClient(p.conn).NotifyRegistrationStatus(ctx, verdict)
		result.add(err)
	case "wait":
		time.Sleep(limit)
	default:
		log.Fatalf("nobody knows the order %q", o.Do)
	}
	result.Dials = p.dials.Load()
	if p.conn != nil {
		result.State = p.conn.GetState().String()
	}
	return result
}

// dial connects anew and returns once the connection stands. Kubelet uses these deprecated calls, too: they differ
// from NewClient in what the server gets to see as the authority. The pings are more than kubelet does.
func (p *peer) dial(limit time.Duration) (err error) {
	if p.conn != nil {
		p.conn.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	//nolint:staticcheck
	p.conn, err = grpc.DialContext(ctx, p.socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithBlock(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, Timeout: time.Second, PermitWithoutStream: true,
		}),
		grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) {
			p.dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}))
	return err
}

func (p *peer) infos(calls int, limit time.Duration, result *outcome) (info *registration.PluginInfo) {
	client := registration.NewRegistrationClient(p.conn)
	var group sync.WaitGroup
	var lock sync.Mutex
	for range calls {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			answer, err := client.GetInfo(ctx, &registration.InfoRequest{})
			lock.Lock()
			defer lock.Unlock()
			result.add(err)
			if err == nil {
				info = answer
			}
		})
	}
	group.Wait()
	return info
}

func (o *outcome) add(err error) {
	o.Codes = append(o.Codes, status.Code(err).String())
	o.Messages = append(o.Messages, status.Convert(err).Message())
}
