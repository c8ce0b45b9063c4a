// SPDX-License-Identifier: Apache-2.0

// Command peers is what Berth is compared with: kube-controller-manager,
// kube-proxy and the API server's allocator in one binary that picks the
// program by the name it is called by (a symlink beside it).
//
// It is a module of its own so that the demo and most tests, which need none
// of it, do not wait for its build. Each name runs the upstream command as its
// own module ships it; the allocator, a package, has its measuring loop here. e2e/src/controlplane/build.rs builds and caches the binary.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"k8s.io/component-base/cli"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"

	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json, as upstream's own main has it
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // the client's and the queues' metrics, likewise
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info, likewise
)

func main() {
	followLifeline()
	switch name := filepath.Base(os.Args[0]); name {
	case "kube-controller-manager":
		os.Exit(cli.Run(controllermanager.NewControllerManagerCommand()))
	case "kube-proxy":
		os.Exit(cli.Run(proxy.NewProxyCommand()))
	case "service-allocator":
		if err := measureAllocation(os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "service-allocator: %v\n", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintf(os.Stderr, "peers: called as %q; call it by a link named kube-controller-manager, kube-proxy or service-allocator\n", name)
		os.Exit(2)
	}
}

// followLifeline ends this process when whoever started it is gone, even by
// SIGKILL: the starter keeps the other end of stdin open for as long as it
// lives. PR_SET_PDEATHSIG would not do: it fires when the starting thread
// ends, and the threads of an async runtime come and go.
func followLifeline() {
	if os.Getenv("CONTROLPLANE_LIFELINE") != "stdin" {
		return
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		fmt.Fprintln(os.Stderr, "peers: the process that started this one is gone; exiting")
		os.Exit(1)
	}()
}
