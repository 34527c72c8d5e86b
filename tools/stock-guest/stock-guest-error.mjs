/** Why the guest could not be composed, with what to do next. */
export class StockGuestError extends Error {
  /**
   * @param {string} code - stable: ERR_NO_APT, ERR_NO_NETWORK, ERR_PACKAGE_GONE, ERR_APT, ERR_NO_KEYRING,
   *   ERR_PACKAGE_FORMAT, ERR_MODULE_FORMAT, ERR_MODULE_GONE
   * @param {string} message - for people; ends with the next step
   * @param {ErrorOptions} [options]
   */
  constructor(code, message, options) {
    super(message, options);
    this.name = "StockGuestError";
    this.code = code;
  }
}
