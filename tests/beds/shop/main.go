// A small HTTP service that misbehaves as its environment says, and a client that counts what fails.
//
//	shop                      serves
//	shop health               exit code 0 if the service in this container says that it is healthy
//	shop load URL FLAGS…      a steady load; prints one line of JSON at the end
//	shop sleep                does nothing, forever
//
// What the service does (all from the environment, so that an image or a container can say it):
//
//	PORT           8080
//	VERSION        what GET / and GET /version answer
//	FAIL_PERCENT   so many of 100 answers of GET / are 500
//	START_DELAY    listens only after this time (Go's way of writing it: 500ms)
//	WARM_UP        GET /health says 503 for this time after it listens
//	NEVER_HEALTHY  GET /health says 503 always
//	NEEDS          a URL that must answer 200 for GET /health to say 200: a neighbour
//	ABRUPT         ends at SIGTERM at once, answers in the middle or not
//	IGNORE_TERM    does not end at SIGTERM
//	CRASH_AFTER    exits with code 3 after this time
//	LINGER         goes on serving for this time after SIGTERM
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func env(name, or string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return or
}

func duration(name string) time.Duration {
	d, err := time.ParseDuration(env(name, "0s"))
	if err != nil {
		fmt.Fprintln(os.Stderr, name, err)
		os.Exit(2)
	}
	return d
}

func main() {
	what := ""
	if len(os.Args) > 1 {
		what = os.Args[1]
	}
	switch what {
	case "":
		serve()
	case "health":
		health()
	case "load":
		load(os.Args[2:])
	case "sleep":
		select {}
	default:
		fmt.Fprintln(os.Stderr, "unknown:", what)
		os.Exit(2)
	}
}

func serve() {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	fail, _ := strconv.Atoi(env("FAIL_PERCENT", "0"))
	fmt.Println("version", env("VERSION", "none"), "starts")
	if after := duration("CRASH_AFTER"); after > 0 {
		time.AfterFunc(after, func() {
			fmt.Fprintln(os.Stderr, "panic: out of order")
			os.Exit(3)
		})
	}
	time.Sleep(duration("START_DELAY"))
	warm := time.Now().Add(duration("WARM_UP"))
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, r *http.Request) {
		if rand.Intn(100) < fail {
			fmt.Println("ERROR cannot reach the till")
			http.Error(w, "out of order", 500)
			return
		}
		fmt.Fprintln(w, env("VERSION", "none"))
	}
	mux.HandleFunc("/", answer)
	mux.HandleFunc("/version", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, env("VERSION", "none")) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { time.Sleep(time.Second); answer(w, r) })
	mux.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) {
		if os.Getenv("NEVER_HEALTHY") != "" || time.Now().Before(warm) {
			http.Error(w, "not yet", 503)
			return
		}
		if needs := os.Getenv("NEEDS"); needs != "" {
			got, err := (&http.Client{Timeout: time.Second}).Get(needs)
			if err != nil || got.StatusCode != 200 {
				http.Error(w, "a neighbour is not there", 503)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	})
	server := &http.Server{Addr: ":" + env("PORT", "8080"), Handler: mux}
	ended := make(chan struct{})
	go func() {
		for range terminated {
			if os.Getenv("IGNORE_TERM") != "" {
				continue
			}
			if os.Getenv("ABRUPT") != "" {
				os.Exit(0)
			}
			time.Sleep(duration("LINGER"))
			within, cancel := context.WithTimeout(context.Background(), 8*time.Second)
			_ = server.Shutdown(within)
			cancel()
			close(ended)
			return
		}
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-ended
}

func health() {
	got, err := (&http.Client{Timeout: time.Second}).Get("http://127.0.0.1:" + env("PORT", "8080") + "/health")
	if err != nil || got.StatusCode != 200 {
		os.Exit(1)
	}
}

// What a load counted.
type counted struct {
	Sent     int            `json:"sent"`
	Failed   int            `json:"failed"`
	GapMs    int64          `json:"gap_ms"`
	Versions map[string]int `json:"versions"`
	Errors   map[string]int `json:"errors"`
	Resolved int            `json:"lookups_failed"`
}

// load sends requests at a steady rate, whatever comes back, until it is told to stop (SIGTERM) or its time is over. A
// request fails if there is no answer, or one that is not 200. The gap is the longest time between two good answers.
func load(args []string) {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	rate := flags.Int("rate", 200, "requests a second")
	during := flags.Duration("for", 10*time.Second, "how long")
	timeout := flags.Duration("timeout", 5*time.Second, "for an answer")
	keep := flags.Bool("keep-alive", false, "keep connections")
	every := flags.Bool("every-address", false, "try each address of the name, instead of a random one only")
	url := args[0]
	_ = flags.Parse(args[1:])
	resolver := &net.Resolver{}
	var failedLookups int
	var lookups sync.Mutex
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		all := []string{host}
		if net.ParseIP(host) == nil {
			all, err = resolver.LookupHost(ctx, host)
			if err != nil {
				lookups.Lock()
				failedLookups++
				lookups.Unlock()
				return nil, err
			}
		}
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if !*every {
			all = all[:1]
		}
		var last error
		for _, one := range all {
			dialer := net.Dialer{Timeout: time.Second}
			conn, err := dialer.DialContext(ctx, network, net.JoinHostPort(one, port))
			if err == nil {
				return conn, nil
			}
			last = err
		}
		return nil, last
	}
	client := &http.Client{Timeout: *timeout, Transport: &http.Transport{
		DialContext: dial, DisableKeepAlives: !*keep, MaxIdleConnsPerHost: 64,
	}}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	count := counted{Versions: map[string]int{}, Errors: map[string]int{}}
	var good []time.Time
	var lock sync.Mutex
	var all sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(*rate))
	end := time.After(*during)
	began := time.Now()
	fmt.Println("begins")
loop:
	for {
		select {
		case <-stop:
			break loop
		case <-end:
			break loop
		case <-tick.C:
			all.Add(1)
			go func() {
				defer all.Done()
				failed, version := "", ""
				got, err := client.Get(url)
				if err != nil {
					failed = err.Error()
					if i := strings.LastIndex(failed, ": "); i >= 0 {
						failed = failed[i+2:]
					}
				} else {
					body, err := io.ReadAll(got.Body)
					got.Body.Close()
					version = strings.TrimSpace(string(body))
					if err != nil {
						failed = "cut off"
					} else if got.StatusCode != 200 {
						failed = got.Status
					}
				}
				lock.Lock()
				defer lock.Unlock()
				count.Sent++
				if failed != "" {
					count.Failed++
					count.Errors[failed]++
				} else {
					count.Versions[version]++
					good = append(good, time.Now())
				}
			}()
		}
	}
	all.Wait()
	sort.Slice(good, func(i, j int) bool { return good[i].Before(good[j]) })
	last := began
	for _, at := range append(good, time.Now()) {
		if gap := at.Sub(last).Milliseconds(); gap > count.GapMs {
			count.GapMs = gap
		}
		last = at
	}
	count.Resolved = failedLookups
	_ = json.NewEncoder(os.Stdout).Encode(count)
}
