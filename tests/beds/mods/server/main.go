// The server that runs in the beds' pods and containers: answers with its version, and misbehaves on demand.
//
// Environment:
//
//	VERSION        what it calls itself; each image sets it to its tag
//	LISTEN         address, default :8080
//	FAIL_PERCENT   of the requests to / answered 500, spread evenly; default 0
//	FAIL_AFTER     from when on FAIL_PERCENT counts, default 0s
//	LATENCY        added to each answer of /, default 0s
//	START_DELAY    before it listens, default 0s
//	CRASH          exits with this status at start
//	CRASH_AFTER    exits with status 1 after that time
//	NEVER_READY    1: /health answers 503
//	ON_TERM        exit (default): at once; graceful:5s: serves on for so long, then ends; ignore: not at all
//	CONFIG_FILE    a file read at start; what is in it is part of the answer, and without it the start fails
//	REREAD         1: CONFIG_FILE is read at each request
//	ALLOCATE_MIB   memory taken at start
//
// Paths: / and anything else: "VERSION\n"; /version: {"version", "pod", "config"}; /health; /metrics: what Prometheus
// reads, of the requests to everything but /health and /metrics; /echo: the request's body. POST /set?fail_percent=50
// and ?ready=0 change a running one.
//
// `server pause` only waits for its end; `server get URL` prints an answer, and fails where it is none of 2xx.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func number(name string, otherwise float64) float64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		log.Fatalf("ERROR %s: %v", name, err)
	}
	return value
}

func duration(name string) time.Duration {
	text := os.Getenv(name)
	if text == "" {
		return 0
	}
	value, err := time.ParseDuration(text)
	if err != nil {
		log.Fatalf("ERROR %s: %v", name, err)
	}
	return value
}

// pause reaps what ends up with it: it is the first process of a pod that shares its process namespace.
func pause() {
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGINT)
	children := make(chan os.Signal, 16)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-ends:
			return
		case <-children:
			for {
				pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
				if pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}

func get(url string) {
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		log.Fatal(err)
	}
	if answer.StatusCode/100 != 2 {
		log.Fatal(answer.Status)
	}
}

func main() {
	log.SetFlags(log.LstdFlags | log.Lmicroseconds | log.LUTC)
	if len(os.Args) > 1 && os.Args[1] == "pause" {
		pause()
		return
	}
	if len(os.Args) > 2 && os.Args[1] == "get" {
		get(os.Args[2])
		return
	}
	serve()
}

func serve() {
	version := os.Getenv("VERSION")
	log.Printf("version %s starts", version)
	if status := number("CRASH", 0); status != 0 {
		log.Printf("ERROR cannot start: asked to crash")
		os.Exit(int(status))
	}
	memory := make([]byte, int(number("ALLOCATE_MIB", 0))<<20)
	for at := 0; at < len(memory); at += 4096 {
		memory[at] = 1 // touched, or it is not taken
	}
	defer func() { memory = nil }()

	file := os.Getenv("CONFIG_FILE")
	read := func() string {
		if file == "" {
			return ""
		}
		text, err := os.ReadFile(file)
		if err != nil {
			log.Fatalf("ERROR no configuration: %v", err)
		}
		return strings.TrimSpace(string(text))
	}
	config := read()

	var failPercent, counted atomic.Int64
	var ready atomic.Bool
	failPercent.Store(int64(number("FAIL_PERCENT", 0)))
	ready.Store(os.Getenv("NEVER_READY") != "1")
	failFrom := time.Now().Add(duration("FAIL_AFTER"))
	latency := duration("LATENCY")

	labels := prometheus.Labels{"version": version}
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "http_requests_total", Help: "Requests answered, by status code.", ConstLabels: labels,
	}, []string{"code"})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "http_request_duration_seconds", Help: "Time to answer.", ConstLabels: labels,
	})
	prometheus.MustRegister(requests, seconds)
	// A rate of what does not exist yet is no number.
	requests.WithLabelValues("200")
	requests.WithLabelValues("500")

	application := func(answer http.ResponseWriter, request *http.Request) {
		began := time.Now()
		time.Sleep(latency)
		code := http.StatusOK
		// Spread evenly: of any hundred requests exactly so many fail.
		n, percent := counted.Add(1), failPercent.Load()
		if time.Now().After(failFrom) && n*percent/100 != (n-1)*percent/100 {
			code = http.StatusInternalServerError
			log.Printf("ERROR %s %s: injected failure", request.Method, request.URL.Path)
		}
		answer.Header().Set("X-Version", version)
		current := config
		if os.Getenv("REREAD") == "1" {
			current = read()
		}
		switch request.URL.Path {
		case "/version":
			answer.Header().Set("Content-Type", "application/json")
			answer.WriteHeader(code)
			_ = json.NewEncoder(answer).Encode(map[string]string{
				"version": version, "pod": os.Getenv("HOSTNAME"), "config": current,
			})
		case "/echo":
			answer.WriteHeader(code)
			_, _ = io.Copy(answer, request.Body)
		default:
			answer.WriteHeader(code)
			fmt.Fprintln(answer, version)
		}
		requests.WithLabelValues(strconv.Itoa(code)).Inc()
		seconds.Observe(time.Since(began).Seconds())
	}
	paths := http.NewServeMux()
	paths.HandleFunc("/", application)
	paths.Handle("/metrics", promhttp.Handler())
	paths.HandleFunc("/health", func(answer http.ResponseWriter, _ *http.Request) {
		answer.Header().Set("X-Version", version)
		if !ready.Load() {
			http.Error(answer, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(answer, "ok")
	})
	paths.HandleFunc("POST /set", func(answer http.ResponseWriter, request *http.Request) {
		if text := request.FormValue("fail_percent"); text != "" {
			value, err := strconv.Atoi(text)
			if err != nil {
				http.Error(answer, err.Error(), http.StatusBadRequest)
				return
			}
			failPercent.Store(int64(value))
		}
		if text := request.FormValue("ready"); text != "" {
			ready.Store(text == "1")
		}
	})

	time.Sleep(duration("START_DELAY"))
	if after := duration("CRASH_AFTER"); after > 0 {
		time.AfterFunc(after, func() { log.Fatalf("ERROR asked to crash after %s", after) })
	}
	address := os.Getenv("LISTEN")
	if address == "" {
		address = ":8080"
	}
	server := &http.Server{Addr: address, Handler: paths}
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		how := os.Getenv("ON_TERM")
		for range ends {
			log.Printf("version %s is told to end", version)
			switch {
			case how == "ignore":
			case strings.HasPrefix(how, "graceful:"):
				// Serves on, so that whoever has not heard of it yet is answered; asks those that keep a connection to leave.
				on, err := time.ParseDuration(strings.TrimPrefix(how, "graceful:"))
				if err != nil {
					log.Fatalf("ERROR ON_TERM: %v", err)
				}
				time.AfterFunc(on, func() { os.Exit(0) })
				time.AfterFunc(on/2, func() { server.SetKeepAlivesEnabled(false) })
			default:
				os.Exit(0)
			}
		}
	}()
	log.Printf("version %s serves at %s", version, address)
	log.Fatal(server.ListenAndServe())
}
