// A server on Go's own net/http and crypto/tls: clients of one certificate are let in, and greeted by the name in it.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	port := flag.Int("port", 0, "port on 127.0.0.1")
	cert := flag.String("cert", "", "the server's certificate")
	key := flag.String("key", "", "and its key")
	client := flag.String("client", "", "the certificate that is let in")
	files := flag.String("files", "", "folder that is served under /files/")
	access := flag.String("access-log", "", "file for the requests")
	flag.Parse()

	pool := x509.NewCertPool()
	text, err := os.ReadFile(*client)
	if err != nil || !pool.AppendCertsFromPEM(text) {
		log.Fatal("no client's certificate: ", err)
	}
	pages := http.NewServeMux()
	pages.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintf(w, "Hello: %s\n", r.TLS.PeerCertificates[0].Subject.CommonName)
	})
	pages.Handle("/files/", http.StripPrefix("/files/", http.FileServer(http.Dir(*files))))
	var handler http.Handler = pages
	if *access != "" {
		out, err := os.Create(*access)
		if err != nil {
			log.Fatal(err)
		}
		handler = logged(pages, out)
	}
	server := &http.Server{
		Addr:    fmt.Sprintf("127.0.0.1:%d", *port),
		Handler: handler,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			ClientAuth: tls.RequireAndVerifyClientCert,
			ClientCAs:  pool,
		},
		// Without HTTP/2, which no other server here is asked for.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		ErrorLog:     log.New(io.Discard, "", 0),
	}
	log.Fatal(server.ListenAndServeTLS(*cert, *key))
}

// counted notes what the access log wants to know of an answer, and still lets files be sent the quick way.
type counted struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (c *counted) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *counted) Write(part []byte) (int, error) {
	n, err := c.ResponseWriter.Write(part)
	c.bytes += int64(n)
	return n, err
}

func (c *counted) ReadFrom(source io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, source)
	c.bytes += n
	return n, err
}

func logged(pages http.Handler, out io.Writer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := &counted{ResponseWriter: w, status: 200}
		pages.ServeHTTP(answer, r)
		line := bufio.NewWriterSize(out, 512)
		fmt.Fprintf(line, "%s - - [%s] %q %d %d %q %q\n", r.RemoteAddr, time.Now().Format("02/Jan/2006:15:04:05 -0700"),
			r.Method+" "+r.RequestURI+" "+r.Proto, answer.status, answer.bytes, r.Referer(), r.UserAgent())
		line.Flush()
	})
}
