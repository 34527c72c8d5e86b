/**
 * Version of the control protocol: goes up when something that a client relies on changes its meaning or
 * goes away. New methods, parameters and fields leave it as it is.
 */
export const CONTROL_PROTOCOL = 1;
