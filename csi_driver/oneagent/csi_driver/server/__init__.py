"""The node server: answers kubelet over the CSI socket."""
