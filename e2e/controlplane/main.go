// SPDX-License-Identifier: Apache-2.0

// Command controlplane is the real Kubernetes control plane that Berth's demo,
// tests and benchmarks run on: etcd, kube-apiserver and kubectl in one binary
// that picks the program by the name it is called by (a symlink beside it).
//
// Nothing here imitates anything: each name runs the upstream command as its
// own module ships it. e2e/src/controlplane/build.rs builds and caches the binary.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"

	_ "k8s.io/component-base/logs/json/register" // --logging-format=json, as upstream's own main has it
)

func main() {
	followLifeline()
	switch name := filepath.Base(os.Args[0]); name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kubectl":
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			kubectlutil.CheckErr(err)
		}
	default:
		fmt.Fprintf(os.Stderr, "controlplane: called as %q; call it by a link named etcd, kube-apiserver or kubectl\n", name)
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
		fmt.Fprintln(os.Stderr, "controlplane: the process that started this one is gone; exiting")
		os.Exit(1)
	}()
}
